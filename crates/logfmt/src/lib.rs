//! Build events, and the logs that Docker would print for them.
//!
//! [`Event`]s say what happened; a [`Renderer`] turns them into bytes for one of two streams. Every Docker-visible word
//! lives here. Nothing here reads a clock, the environment, a file or a terminal, with one exception: the live view of
//! [`tty`] draws through the `indicatif` draw target that it is given.
//!
//! ```
//! use rbuild_logfmt::{Captured, Event, Format, RenderOptions, read_events, renderer};
//!
//! let recorded = concat!(
//!     r#"{"at":0,"event":"build_started","format":1,"dialect":{"builder":"legacy","version":"20"},"#,
//!     r#""unix_ns":0,"quiet":false}"#, "\n",
//!     r#"{"at":5,"event":"context","tar_bytes":3072}"#, "\n",
//! );
//! let mut out = Captured::default();
//! let mut log = renderer(Format::Legacy, RenderOptions::default());
//! for event in read_events(recorded.as_bytes()) {
//!     log.event(&event?, &mut out);
//! }
//! log.finish(&mut out);
//! assert_eq!(out.stdout, b"Sending build context to Docker daemon  3.072kB\r\r\n");
//! # Ok::<(), rbuild_logfmt::EventsError>(())
//! ```
#![forbid(unsafe_code)]

mod buildkit;
mod bytes;
mod check;
mod download_text;
pub mod event;
mod events;
pub mod excerpt;
mod exit_code;
mod failure_text;
mod format;
mod go_quote;
mod go_reason;
mod go_sort;
mod id_file;
mod json_text;
mod legacy;
mod pull_failure;
mod pull_text;
mod rawjson;
mod reference;
mod renderer;
pub mod report;
mod repository_failure;
mod repository_text;
mod solve_status;
pub mod tty;
pub mod units;
mod usage;

pub use download_text::download_problem;
pub use event::Event;
pub use events::{EVENT_FORMAT, EventsError, read_events, read_recording};
pub use exit_code::exit_code;
pub use failure_text::failure_report;
pub use format::{Format, UnknownFormat};
pub use go_reason::go_reason;
pub use id_file::{IdFileAction, id_file_error};
pub use renderer::{Captured, OutputStream, RenderOptions, Renderer, Sink, renderer};
pub use usage::{Arity, WrongUse, WrongValue};
