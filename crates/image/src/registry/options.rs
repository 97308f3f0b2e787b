//! What the caller may set.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::credentials::CredentialSource;

/// How to reach registries. Nothing here is read from the environment: the caller decides.
#[derive(Clone)]
pub struct RegistryOptions {
    /// Mirrors of docker.io, `http://HOST[:PORT]` or `https://…`, tried in order before docker.io itself.
    pub mirrors: Vec<String>,
    /// Hosts (`HOST` or `HOST:PORT`) or networks (`10.0.0.0/8`) whose certificate is not checked and which may speak
    /// plain HTTP. The loopback always may.
    pub insecure: Vec<String>,
    /// For a host (`HOST` or `HOST:PORT`) a PEM file with authorities to trust besides the system's.
    pub certificates: BTreeMap<String, PathBuf>,
    /// A PEM file with all authorities to trust, in place of the system's.
    pub ca_bundle: Option<PathBuf>,
    /// The proxies.
    pub proxy: ProxyOptions,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How often to try.
    pub retries: RetryPolicy,
    /// Which error counts if neither a mirror nor docker.io gives what is asked for.
    pub telling_error: TellingError,
    /// Where passwords come from; anonymous if there is none.
    pub credentials: Option<Arc<dyn CredentialSource>>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        RegistryOptions {
            mirrors: Vec::new(),
            insecure: Vec::new(),
            certificates: BTreeMap::new(),
            ca_bundle: None,
            proxy: ProxyOptions::default(),
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned(),
            timeouts: Timeouts::default(),
            retries: RetryPolicy::default(),
            telling_error: TellingError::default(),
            credentials: None,
        }
    }
}

impl fmt::Debug for RegistryOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryOptions")
            .field("insecure", &self.insecure)
            .field("certificates", &self.certificates)
            .field("ca_bundle", &self.ca_bundle)
            .field("user_agent", &self.user_agent)
            .field("timeouts", &self.timeouts)
            .field("retries", &self.retries)
            .field("telling_error", &self.telling_error)
            .finish_non_exhaustive()
    }
}

/// Which of several endpoints' errors counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TellingError {
    /// That of the last one, as in Docker's daemon and in containerd 1.6 (BuildKit of Docker 20.10).
    #[default]
    Last,
    /// That which came furthest, and of these the first: a refusal, then that something was not found, then that there was
    /// no answer; as in containerd 1.7 and later (BuildKit of Docker 28).
    Furthest,
}

/// Proxies in the form of the variables `http_proxy`, `https_proxy` and `no_proxy`. The loopback is never proxied.
#[derive(Clone, Default)]
pub struct ProxyOptions {
    /// The proxy for `http:` addresses; may carry `user:password@`.
    pub http: Option<String>,
    /// The proxy for `https:` addresses; may carry `user:password@`.
    pub https: Option<String>,
    /// Hosts, domains and networks to reach directly, separated by commas; `*` for all.
    pub no_proxy: Option<String>,
}

impl fmt::Debug for ProxyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The addresses may hold passwords.
        f.debug_struct("ProxyOptions").field("no_proxy", &self.no_proxy).finish_non_exhaustive()
    }
}

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For a connection, with its name lookup and TLS handshake.
    pub connect: Duration,
    /// For any progress of an exchange: the first byte of an answer, more of a body, acceptance of a piece of upload.
    pub idle: Duration,
    /// For the answer to a finished upload, which the registry may have to hash and to copy first.
    pub commit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { connect: Duration::from_secs(20), idle: Duration::from_secs(60), commit: Duration::from_secs(300) }
    }
}

/// How often and how soon to try again after a transient error.
///
/// The pause doubles from `first` to `longest`, and up to half of it is taken off at random, so that many clients do not
/// come back at once. A server's `Retry-After` is obeyed up to `longest_retry_after`.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts in all, at least one.
    pub attempts: u32,
    /// The pause after the first failure.
    pub first: Duration,
    /// The longest pause of our own choice.
    pub longest: Duration,
    /// The longest pause a server may ask for.
    pub longest_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            attempts: 5,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(15),
            longest_retry_after: Duration::from_secs(10),
        }
    }
}

impl RetryPolicy {
    /// The pause before attempt `attempt + 1`, counting from 1; `asked` is the server's `Retry-After` in seconds and
    /// `random` any number.
    pub(super) fn pause(&self, attempt: u32, asked: Option<u64>, random: u32) -> Duration {
        let doubled =
            self.first.saturating_mul(1u32.checked_shl(attempt.saturating_sub(1).min(20)).unwrap_or(u32::MAX));
        let ours = doubled.min(self.longest);
        let jittered = ours - (ours / 2).mul_f64(f64::from(random) / f64::from(u32::MAX));
        match asked {
            Some(seconds) => Duration::from_secs(seconds).min(self.longest_retry_after).max(jittered),
            None => jittered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_stay_bounded_and_obey_the_server() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.pause(1, None, 0), Duration::from_millis(500));
        assert_eq!(policy.pause(1, None, u32::MAX), Duration::from_millis(250));
        assert_eq!(policy.pause(3, None, 0), Duration::from_secs(2));
        assert_eq!(policy.pause(4_000_000_000, None, 0), policy.longest);
        assert_eq!(policy.pause(1, Some(7), 0), Duration::from_secs(7));
        assert_eq!(policy.pause(1, Some(u64::MAX), 0), policy.longest_retry_after);
    }
}
