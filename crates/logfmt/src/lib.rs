//! Build events, and the logs that Docker would print for them.
//!
//! [`Event`]s say what happened; a renderer turns them into bytes for one of two streams. Every Docker-visible word
//! lives here. Nothing here reads a clock, the environment, a file or a terminal.
#![forbid(unsafe_code)]

mod bytes;
pub mod event;

pub use event::Event;
