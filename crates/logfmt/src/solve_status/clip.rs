//! BuildKit's limits on what a step may write.

use crate::units::binary_size;

/// Most bytes of one stream of a step (BuildKit's `BUILDKIT_STEP_LOG_MAX_SIZE`).
const MAX_SIZE: u64 = 2 << 20;
/// Most bytes in each second since the step began (`BUILDKIT_STEP_LOG_MAX_SPEED`).
const MAX_SPEED: u64 = 200 << 10;
/// How much of a clipped stream's end is kept, to be shown if the step fails.
const KEPT: usize = 256 << 10;
const SECOND: u64 = 1_000_000_000;

/// One stream of one step.
#[derive(Debug)]
pub(super) struct Clip {
    began: u64,
    size: u64,
    clipping: bool,
    /// Nothing is clipped.
    off: bool,
    /// The last bytes since the first clipped one.
    kept: Option<Vec<u8>>,
}

impl Clip {
    pub(super) fn new(began: u64, off: bool) -> Self {
        Self { began, size: 0, clipping: false, off, kept: None }
    }

    /// What is shown of a piece written at `now`.
    pub(super) fn pass(&mut self, data: &[u8], now: u64) -> Vec<u8> {
        if self.off {
            return data.to_vec();
        }
        let before = self.size;
        self.size = self.size.saturating_add(data.len() as u64);
        // The first second has begun with the step.
        let seconds = now.saturating_sub(self.began).max(1).div_ceil(SECOND);
        let by_speed = seconds.saturating_mul(MAX_SPEED);
        let limit = by_speed.min(MAX_SIZE);
        let room = usize::try_from(limit.saturating_sub(before)).unwrap_or(usize::MAX);
        let shown = data.get(..room).unwrap_or(data);
        if shown.len() < data.len() && self.kept.is_none() {
            self.kept = Some(Vec::new());
        }
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(data.get(data.len().saturating_sub(KEPT)..).unwrap_or(data));
            // Not each time: what stays is moved.
            if kept.len() > 4 * KEPT {
                kept.drain(..kept.len() - KEPT);
            }
        }
        let mut shown = shown.to_vec();
        if shown.len() == data.len() {
            self.clipping = false;
        } else if !self.clipping {
            self.clipping = true;
            let limit =
                if by_speed > MAX_SIZE { binary_size(MAX_SIZE) } else { format!("{}/s", binary_size(MAX_SPEED)) };
            shown.extend_from_slice(format!("\n[output clipped, log limit {limit} reached]\n").as_bytes());
        }
        shown
    }

    /// What was kept of a clipped stream: shown when the step fails.
    pub(super) fn flush(&mut self) -> Vec<u8> {
        let mut kept = self.kept.take().unwrap_or_default();
        kept.drain(..kept.len().saturating_sub(KEPT));
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_fast() {
        let mut clip = Clip::new(0, false);
        assert_eq!(clip.pass(&[b'y'; 200 << 10], 0).len(), 200 << 10);
        assert_eq!(clip.pass(b"more", 5), b"\n[output clipped, log limit 200KiB/s reached]\n");
        assert_eq!(clip.pass(b"more", SECOND), b"");
        assert_eq!(clip.pass(b"later", SECOND + 1), b"later");
        assert_eq!(clip.flush(), b"moremorelater");
        assert_eq!(clip.flush(), b"");
    }

    #[test]
    fn too_much() {
        let mut clip = Clip::new(0, false);
        let piece = vec![b'z'; 1 << 20];
        assert_eq!(clip.pass(&piece, 60 * SECOND).len(), 1 << 20);
        assert_eq!(clip.pass(&piece, 61 * SECOND).len(), 1 << 20);
        assert_eq!(clip.pass(&piece, 62 * SECOND), b"\n[output clipped, log limit 2MiB reached]\n");
        assert_eq!(clip.pass(b"x", u64::MAX), b"");
        for _ in 0..9 {
            clip.pass(&piece, u64::MAX);
        }
        clip.pass(b"the end", u64::MAX);
        let kept = clip.flush();
        assert_eq!(kept.len(), KEPT);
        assert!(kept.ends_with(b"zzthe end"));
    }

    #[test]
    fn off() {
        let mut clip = Clip::new(0, true);
        let piece = vec![b'z'; 3 << 20];
        assert_eq!(clip.pass(&piece, 0), piece);
        assert_eq!(clip.flush(), b"");
    }
}
