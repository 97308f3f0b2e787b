//! The client against a registry in this process, and against a real one.

mod auth;
mod fake;
mod pull;
mod push;
mod real;
mod secure;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::platform::Platform;
use crate::reference::Reference;

use super::*;
use fake::Fake;

static GO_ON: AtomicBool = AtomicBool::new(false);

/// Options with pauses that a test can wait for.
fn options() -> RegistryOptions {
    RegistryOptions {
        retries: RetryPolicy {
            attempts: 4,
            first: Duration::from_millis(1),
            longest: Duration::from_millis(5),
            longest_retry_after: Duration::from_millis(40),
        },
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(10),
            commit: Duration::from_secs(20),
        },
        ..RegistryOptions::default()
    }
}

fn client() -> Registry {
    Registry::new(options()).unwrap()
}

fn name(fake: &Fake, rest: &str) -> Reference {
    format!("{}/{rest}", fake.host()).parse().unwrap()
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64", "")
}

/// Bytes that repeat nowhere within a few pieces.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}
