//! Files from the web, for ADD.

use std::io::Write;
use std::path::{Path, PathBuf};

use rbuild_image::digest::{Digest, Hasher};
use rbuild_image::registry::{FetchedUrl, UrlError};
use rbuild_logfmt::event::{DownloadProblem, Failure};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::pull_failure::download_problem;
use crate::session::Session;
use crate::solve::instruction_failed;
use crate::stop::Stop;

/// A file that was fetched.
#[derive(Clone, Debug)]
pub(crate) struct Download {
    path: PathBuf,
    url: String,
    digest: Digest,
    answer: FetchedUrl,
}

/// A fetched file under the name it is copied by.
#[derive(Clone, Debug)]
pub(crate) struct NamedDownload {
    dir: PathBuf,
    name: String,
}

impl NamedDownload {
    pub(crate) fn directory(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

struct Hashed {
    file: std::fs::File,
    hasher: Hasher,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Download {
    pub(crate) fn fetch(session: &Session<'_>, url: &str) -> Result<Download, Stop> {
        let path = session.scratch_dir()?.join("file");
        let mut sink = Hashed { file: std::fs::File::create_new(&path)?, hasher: Hasher::sha256() };
        let answer =
            session.registry().fetch_url(url, &mut sink, session.cancel().flag()).map_err(|error| match error {
                UrlError::Registry(error) if session.cancel().is_cancelled() => {
                    tracing::debug!(%error, "cancelled");
                    Stop::Cancelled
                }
                UrlError::Registry(error) => failed(url, download_problem(&error)),
                UrlError::Cut { .. } => failed(url, DownloadProblem::Cut),
                error => Stop::own(&error),
            })?;
        // Without a time of its own a file has none.
        let seconds = answer.last_modified.as_deref().and_then(http_time).unwrap_or(0);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        sink.file.set_modified(time)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(Download { path, url: url.to_owned(), digest: sink.hasher.finish(), answer })
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes.
    pub(crate) fn size(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |found| found.len())
    }

    /// What the server said before how many they were.
    pub(crate) fn announced_size(&self) -> Option<u64> {
        self.answer.length
    }

    /// Digest of its content.
    pub(crate) fn digest(&self) -> &str {
        self.digest.as_str()
    }

    /// Compares it with `--checksum`.
    pub(crate) fn check(&self, checksum: Option<&str>) -> Result<(), Stop> {
        let Some(wanted) = checksum.filter(|wanted| !wanted.is_empty()) else { return Ok(()) };
        let wanted: Digest =
            wanted.parse().map_err(|error: rbuild_image::digest::DigestError| instruction_failed(error.to_string()))?;
        let mut hasher = Hasher::new(wanted.algorithm());
        std::io::copy(&mut std::fs::File::open(&self.path)?, &mut Sink(&mut hasher))?;
        let found = hasher.finish();
        if found != wanted {
            let (actual, expected) = (found.to_string(), wanted.to_string());
            return Err(failed(&self.url, DownloadProblem::Checksum { actual, expected }));
        }
        Ok(())
    }

    /// The name that the legacy builder gives it: from its address, else from what the server says.
    pub(crate) fn legacy_name(&self) -> Option<String> {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        let path = path.split_once('/').map_or("", |(_, path)| path);
        if !path.is_empty() && !path.ends_with('/') {
            return path.rsplit('/').next().map(str::to_owned);
        }
        let disposition = self.answer.content_disposition.as_deref()?;
        let name = disposition.split(';').find_map(|part| part.trim().strip_prefix("filename="))?;
        let name = name.trim_matches('"').rsplit('/').next()?;
        (!name.is_empty() && name != "." && name != "..").then(|| name.to_owned())
    }

    /// Gives it a name to be copied by.
    pub(crate) fn named(&self, session: &Session<'_>, name: &str) -> Result<NamedDownload, Stop> {
        if matches!(name, "" | "." | "..") || name.contains('/') {
            return Err(instruction_failed(format!("cannot determine filename for source {}", self.url)));
        }
        let dir = session.scratch_dir()?;
        std::fs::hard_link(&self.path, dir.join(name))?;
        Ok(NamedDownload { dir, name: name.to_owned() })
    }
}

/// Whether a download ended in the middle.
pub(crate) fn was_cut(stop: &Stop) -> bool {
    let cut = |failure: &Failure| matches!(failure, Failure::Download { problem: DownloadProblem::Cut, .. });
    matches!(stop, Stop::Failed(failed) if cut(&failed.failure))
}

fn failed(url: &str, problem: DownloadProblem) -> Stop {
    Stop::failed(Failure::Download { url: url.to_owned(), problem })
}

struct Sink<'h>(&'h mut Hasher);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Seconds since the epoch of an HTTP date (`Wed, 21 Oct 2015 07:28:00 GMT`, RFC 9110 section 5.6.7).
fn http_time(text: &str) -> Option<i64> {
    let text = text.replace(" GMT", " +0000");
    Some(OffsetDateTime::parse(&text, &Rfc2822).ok()?.unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates() {
        assert_eq!(http_time("Wed, 21 Oct 2015 07:28:00 GMT"), Some(1_445_412_480));
        assert_eq!(http_time("yesterday"), None);
    }
}
