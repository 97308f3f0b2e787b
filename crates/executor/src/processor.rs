//! What the processor can do, as platforms name it.

/// The level of an x86-64 processor that is above the first, as `v3` (the x86-64 psABI's microarchitecture levels); empty
/// for any other.
#[cfg(target_arch = "x86_64")]
pub(crate) fn level() -> &'static str {
    use std::arch::is_x86_feature_detected as has;
    let second =
        has!("cmpxchg16b") && has!("popcnt") && has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2");
    let third = second
        && has!("avx")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let fourth =
        third && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (second, third, fourth) {
        (_, _, true) => "v4",
        (_, true, _) => "v3",
        (true, ..) => "v2",
        _ => "",
    }
}

/// No such levels.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn level() -> &'static str {
    ""
}
