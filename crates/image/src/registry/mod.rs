//! The client of registries: the OCI distribution API (v1.1) with Docker's authentication.
//!
//! All calls block and may come from many threads at once; several blobs move in parallel by calling from several threads.
//! The network runs on a runtime of the client's own, which the calling threads never enter, so that an asynchronous
//! program may call too. Nothing is read from the environment.
//!
//! Every byte taken is checked against the digest and size that were asked for. Secrets appear in no error and no debug
//! output. Documents are bounded, blobs are streamed.
//!
//! # Why not `oci-client`
//! It builds on the same `reqwest`, but keeps it to itself: a caller sees neither the status and `Retry-After` of a failed
//! token request (the request then goes out unauthorised), nor the error entries in the registry's own words; documents are
//! read without bound; redirections, the certificate store and name resolution cannot be set; an identity token cannot be
//! exchanged. Each of these is needed for every request here, so `reqwest` is used directly, in the module `transport` alone.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use rbuild_image::platform::Platform;
//! use rbuild_image::registry::{Registry, RegistryOptions};
//!
//! let registry = Registry::new(RegistryOptions::default())?;
//! let cancel = AtomicBool::new(false);
//! let name = "busybox:latest".parse().unwrap();
//! let image = registry.resolve(&name, &Platform::host(), &cancel)?;
//! for layer in &image.image().layers {
//!     let mut file = std::fs::File::create(layer.digest.hex()).unwrap();
//!     registry.fetch_blob(&name, layer, &mut file, &mut |_| {}, &cancel)?;
//! }
//! # Ok::<(), rbuild_image::registry::RegistryError>(())
//! ```

mod auth;
mod credentials;
mod dns;
mod endpoint;
mod error;
mod options;
mod pull;
mod push;
mod session;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod url;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use reqwest::Method;

pub use auth::CredentialUse;
pub use credentials::{Credential, CredentialError, CredentialSource, DOCKER_HUB_SERVER, DockerConfig, Secret};
pub use endpoint::credential_server;
pub use error::{
    ApiError, ERROR_BODY_LIMIT, NoPlatform, Refusal, Refuser, RegistryError, RegistryErrorKind, RequestLine,
    ResolveProblem, Subject, TimeoutPhase, TlsProblem,
};
pub use options::{ProxyOptions, RegistryOptions, RetryPolicy, TellingError, Timeouts};
pub use pull::{Found, Resolved};
pub use push::{BlobSource, Pushed};
pub use url::{FetchedUrl, UrlError};

use session::{Request, Session};

/// A client of any number of registries. Clones share connections and tokens.
#[derive(Clone)]
pub struct Registry {
    session: Arc<Session>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("options", self.session.transport.options()).finish_non_exhaustive()
    }
}

/// What happens while content moves.
#[derive(Debug)]
#[non_exhaustive]
pub enum TransferEvent<'a> {
    /// So many bytes of the blob have come or gone. Goes back when an upload starts anew.
    Progress {
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// An attempt failed; after the pause comes the next.
    Retrying {
        /// The attempt that failed, from 1.
        attempt: u32,
        /// How long the client waits.
        pause: Duration,
        /// Why it failed.
        error: &'a RegistryError,
    },
}

impl Registry {
    /// A client. No file is read and no connection made before the first request.
    ///
    /// # Errors
    /// [`RegistryError::Option`] for an unusable option.
    pub fn new(options: RegistryOptions) -> Result<Registry, RegistryError> {
        Ok(Registry { session: Arc::new(Session::new(options, false)?) })
    }

    /// Proves a credential to a server (`HOST[:PORT]`, or docker.io by any of its names). If the server gives an identity
    /// token for a password, that is returned and should be kept in the password's place, as `docker login` does.
    ///
    /// # Errors
    /// [`RegistryErrorKind::Unauthorized`] if the credential is wrong, or any error of the way there.
    pub fn login(
        &self,
        server: &str,
        credential: &Credential,
        cancel: &AtomicBool,
    ) -> Result<Option<Secret>, RegistryError> {
        let mut options = self.session.transport.options().clone();
        let credential = credential.clone();
        let given = move |_: &str| Ok::<_, CredentialError>(Some(credential.clone()));
        options.credentials = Some(Arc::new(given));
        let attempts = options.retries.attempts.max(1);
        let session = Session::new(options, true)?;
        let endpoint = session.endpoints.for_server(server)?;
        session.retrying(attempts, &mut |_| {}, cancel, |_| {
            let base = session.base(&endpoint, cancel)?;
            let sent = session.send(&endpoint, &base, &[], Request::new(Method::GET, base.clone()), cancel)?;
            if sent.answer.status.is_success() {
                return Ok(());
            }
            Err(sent.refuse(&session, Subject::Api, cancel))
        })?;
        Ok(session.auth.refresh_token())
    }

    /// What passwords were used for since this was last asked.
    pub fn take_credential_uses(&self) -> Vec<CredentialUse> {
        self.session.auth.take_uses()
    }

    /// The server under which credentials for a reference's registry are kept; see [`credential_server`].
    ///
    /// # Errors
    /// [`RegistryError::Option`] if the reference names no usable registry.
    pub fn server_of(&self, reference: &crate::reference::Reference) -> Result<String, RegistryError> {
        Ok(self.session.endpoints.for_push(reference)?.server)
    }
}

/// Random bits for jitter and temporary names; without entropy the time must do.
fn random_u32() -> u32 {
    let mut bytes = [0u8; 4];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(4) => u32::from_ne_bytes(bytes),
        _ => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map(|since| since.subsec_nanos())
            .unwrap_or_default(),
    }
}
