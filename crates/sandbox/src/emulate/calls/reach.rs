//! Calls that name another process: those that are not the build's do not exist.

use super::{Answer, Outcome, process::has_ended};
use crate::emulate::{Kernel, task::Task};
use rustix::io::Errno;

/// A call that is made as it is, if the task or process is one that is emulated. Its number comes in a register, so that
/// it cannot become another one meanwhile.
pub(super) fn only_own(kernel: &Kernel, task: &Task, id: i32) -> Outcome {
    let Ok(wanted) = u32::try_from(id) else {
        return Ok(Answer::Native);
    };
    // One that has ended is still there for its parent.
    if wanted == task.tid
        || wanted == task.process.pid
        || kernel.task(wanted).is_some_and(|other| task.sees(&other))
        || has_ended(wanted)
    {
        Ok(Answer::Native)
    } else {
        Err(Errno::SRCH)
    }
}
