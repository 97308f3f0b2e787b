//! What Docker says of a file that ADD cannot download.
//!
//! Recorded from Docker 28.5.2 and 20.10.24.

use crate::event::{DownloadProblem, Version};
use crate::pull_text::{no_answer, status_line};

/// The legacy builder, after `ADD failed: `.
pub(crate) fn legacy(url: &str, problem: &DownloadProblem, version: Version) -> String {
    match problem {
        DownloadProblem::Status { status, body } => {
            format!("failed to GET {url} with status {}: {}", status_line(*status), body.trim())
        }
        other => buildkit(url, other, version),
    }
}

/// Why a file cannot be had, for a text of our own.
#[must_use]
pub fn download_problem(url: &str, problem: &DownloadProblem) -> String {
    buildkit(url, problem, Version::V28)
}

/// BuildKit, at the step that downloads.
pub(crate) fn buildkit(url: &str, problem: &DownloadProblem, version: Version) -> String {
    match problem {
        DownloadProblem::Status { status, .. } => format!("invalid response status {status}"),
        DownloadProblem::NoAnswer { why } => format!("Get \"{url}\": {}", no_answer(why, version)),
        DownloadProblem::Cut => "unexpected EOF".to_owned(),
        DownloadProblem::Checksum { actual, expected } => format!("digest mismatch {actual}: {expected}"),
        DownloadProblem::Other { detail } => detail.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NoAnswer;

    #[test]
    fn texts() {
        let url = "http://h/x";
        let status = DownloadProblem::Status { status: 404, body: "no\n".to_owned() };
        assert_eq!(legacy(url, &status, Version::V28), "failed to GET http://h/x with status 404 Not Found: no");
        assert_eq!(buildkit(url, &status, Version::V28), "invalid response status 404");
        let why = NoAnswer::Connect { address: Some("1.2.3.4:80".to_owned()), why: "connection refused".to_owned() };
        let refused = DownloadProblem::NoAnswer { why };
        let text = "Get \"http://h/x\": dial tcp 1.2.3.4:80: connect: connection refused";
        assert_eq!([legacy(url, &refused, Version::V20), buildkit(url, &refused, Version::V28)], [text, text]);
    }
}
