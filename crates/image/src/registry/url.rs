//! Files from the web, for ADD: the same proxies, authorities and time limits as for registries.

use std::io::{self, Write};
use std::sync::atomic::AtomicBool;

use reqwest::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, LAST_MODIFIED};
use reqwest::{Method, Url};

use super::error::{Refuser, Subject};
use super::session::Request;
use super::{Registry, RegistryError};

/// What a server said of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchedUrl {
    /// The value of `Last-Modified`.
    pub last_modified: Option<String>,
    /// The value of `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// The value of `Content-Length`.
    pub length: Option<u64>,
    /// The path of the address after redirections.
    pub path: String,
}

/// Why a file cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// The server, or the way there.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The connection ended in the middle of the file.
    #[error("the connection ended in the middle of `{url}`")]
    Cut {
        /// The address.
        url: String,
        /// How.
        source: RegistryError,
    },
    /// The file could not be written here.
    #[error("cannot write what comes from `{url}`")]
    Write {
        /// The address.
        url: String,
        /// Why.
        source: io::Error,
    },
}

impl Registry {
    /// Downloads a file from any address, following redirections, without credentials.
    ///
    /// # Errors
    /// [`RegistryError::Option`] for an address that is none, [`RegistryError::Refused`] for any answer but 2xx, and
    /// those of the way there; [`UrlError::Cut`] if not all of it came; [`UrlError::Write`] if `sink` fails.
    pub fn fetch_url(&self, url: &str, sink: &mut dyn Write, cancel: &AtomicBool) -> Result<FetchedUrl, UrlError> {
        let address = Url::parse(url).map_err(|error| RegistryError::Option {
            option: "url",
            value: url.to_owned(),
            problem: error.to_string(),
        })?;
        let (mut answer, _) = self.session.follow(Request::new(Method::GET, address), cancel)?;
        if !answer.status.is_success() {
            let refused = self.session.refusal(answer, Refuser::Elsewhere, Subject::Blob, false, cancel);
            return Err(refused.into());
        }
        let fetched = FetchedUrl {
            last_modified: answer.header(LAST_MODIFIED).map(str::to_owned),
            content_disposition: answer.header(CONTENT_DISPOSITION).map(str::to_owned),
            length: answer.header(CONTENT_LENGTH).and_then(|length| length.parse().ok()),
            path: answer.url.path().to_owned(),
        };
        let cut = |source| match source {
            RegistryError::Broken { .. } => UrlError::Cut { url: url.to_owned(), source },
            source => source.into(),
        };
        while let Some(piece) = answer.piece(cancel).map_err(cut)? {
            sink.write_all(&piece).map_err(|source| UrlError::Write { url: url.to_owned(), source })?;
        }
        Ok(fetched)
    }
}
