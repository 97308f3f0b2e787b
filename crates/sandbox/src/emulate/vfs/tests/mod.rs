//! The same operations on this implementation and on the kernel's.

mod differential;
mod namespaces;
mod ours;
mod sequence;
mod theirs;
mod vain;

use rustix::io::Errno;

/// What an operation gives: text that is compared.
type Outcome = Result<String, Errno>;

/// Something that has a root directory and carries out operations on it.
trait Subject {
    fn run(&mut self, op: &sequence::Op, who: u32) -> Outcome;
}

/// The time of files that were not touched; what is later is only "new".
const OLD: i64 = 1_400_000_000;

fn time(seconds: i64, nanoseconds: i64) -> String {
    if seconds < OLD + 1_000_000 { format!("{seconds}.{nanoseconds}") } else { "new".into() }
}

/// Content, shortened.
fn brief(content: &[u8]) -> String {
    let head: String = content.iter().take(24).map(|byte| char::from(*byte)).collect();
    let sum = content.iter().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("{}:{head:?}:{sum:x}", content.len())
}
