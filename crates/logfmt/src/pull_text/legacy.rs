//! The legacy builder's words.

use crate::event::{NoAnswer, Part, PullFailure, Refusal, Request, Version};
use crate::go_quote::quote;
use crate::reference::{canonical, familiar, familiar_name};

use super::said::{Said, json_error};
use super::{no_answer, parts, status_line};

/// How often the configuration is asked for, where it is of use.
const ATTEMPTS: u32 = 6;

/// What the legacy builder says.
pub(crate) fn legacy(reference: &str, cause: &PullFailure, version: Version) -> String {
    match cause {
        PullFailure::Refused(refusal) => refused(reference, refusal, version),
        PullFailure::NoAnswer { request, problem } => unanswered(reference, request, problem, version),
        PullFailure::NoCredentials { request } => asking(reference, request, "no basic auth credentials"),
        PullFailure::NoToken { request } => {
            asking(reference, request, "authorization server did not include a token in the response")
        }
        PullFailure::NoPlatform { platform, .. } => {
            format!("no matching manifest for {platform} in the manifest list entries")
        }
        PullFailure::UnknownMediaType { part: Part::Config, media_type, .. } => {
            format!("unsupported media type {media_type}")
        }
        // What has no known type is read as schema 1.
        PullFailure::UnknownMediaType { .. } | PullFailure::SchemaOne { signed: false, .. } => {
            "missing signature key".to_owned()
        }
        PullFailure::SchemaOne { .. } => format!(
            "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed. Suggest the \
             author of {} to upgrade the image to the OCI Format or Docker Image manifest v2, schema 2. More information \
             at https://docs.docker.com/go/deprecated-image-specs/",
            canonical(reference)
        ),
        PullFailure::Corrupt { part: Part::Layer, expected, .. } => {
            format!("filesystem layer verification failed for digest {expected}")
        }
        PullFailure::Corrupt { part: Part::Config, expected, .. } => {
            format!("error pulling image configuration: image config verification failed for digest {expected}")
        }
        PullFailure::Corrupt { expected, .. } => format!("manifest verification failed for digest {expected}"),
        PullFailure::Short { part: Part::Config, .. } => configuration(ATTEMPTS, "unexpected EOF"),
        PullFailure::Short { .. } => "unexpected EOF".to_owned(),
        PullFailure::Other { detail } => detail.clone(),
    }
}

fn configuration(attempts: u32, why: &str) -> String {
    format!("error pulling image configuration: download failed after attempts={attempts}: {why}")
}

/// What fails while the name is looked up is told with the request.
fn asking(reference: &str, request: &Request, why: &str) -> String {
    let (host, repository, name) = parts(reference);
    let method = if name.contains(':') { "Get" } else { "Head" };
    let scheme = if is_plain(&host, request) { "http" } else { "https" };
    format!("{method} \"{scheme}://{host}/v2/{repository}/manifests/{name}\": {why}")
}

/// Whether the registry itself is spoken to in plain HTTP.
fn is_plain(host: &str, request: &Request) -> bool {
    request.url.starts_with(&format!("http://{host}/"))
        || request.part == Part::Token && request.url.starts_with("http://")
}

fn unanswered(reference: &str, request: &Request, problem: &NoAnswer, version: Version) -> String {
    let why = no_answer(problem, version);
    match request.part {
        Part::Token => asking(reference, request, &format!("Get \"{}\": {why}", request.url)),
        Part::Name => {
            // First of all it is asked whether there is a registry at all.
            let early = matches!(
                problem,
                NoAnswer::Resolve { .. }
                    | NoAnswer::Connect { .. }
                    | NoAnswer::PlainHttp
                    | NoAnswer::UnknownAuthority
                    | NoAnswer::WrongName { .. }
                    | NoAnswer::Expired { .. }
                    | NoAnswer::Tls { .. }
                    | NoAnswer::Timeout { connecting: true }
            );
            if !early && request.url.contains("/manifests/") {
                return asking(reference, request, &why);
            }
            let (host, ..) = parts(reference);
            let scheme = if is_plain(&host, request) { "http" } else { "https" };
            format!("Get \"{scheme}://{host}/v2/\": {why}")
        }
        Part::Manifest => format!("Get \"{}\": {why}", request.url),
        Part::Config => configuration(ATTEMPTS, &format!("Get \"{}\": {why}", request.url)),
        // The request that fetches a layer is wrapped no more once it was sent.
        Part::Layer if matches!(problem, NoAnswer::Closed) => why,
        Part::Layer => format!("Get \"{}\": {why}", request.url),
    }
}

fn refused(reference: &str, refusal: &Refusal, version: Version) -> String {
    let part = refusal.request.part;
    if matches!(part, Part::Config | Part::Layer) && refusal.status == 404 {
        let why = "unknown blob";
        return if part == Part::Config { configuration(1, why) } else { why.to_owned() };
    }
    let answer = Answer::of(refusal, version);
    match part {
        Part::Token => asking(reference, &refusal.request, &answer.whole()),
        Part::Config => configuration(answer.attempts(), &answer.whole()),
        _ => answer.first(reference),
    }
}

/// An answer that refuses, as it is understood.
enum Answer {
    /// Errors with codes.
    Errors(Vec<Said>),
    /// Words about the answer.
    Words(String),
    /// No more than a status was looked at.
    Status(u16),
}

impl Answer {
    fn of(refusal: &Refusal, version: Version) -> Answer {
        let Refusal { status, body, .. } = refusal;
        if !(400..500).contains(status) {
            return Answer::Status(*status);
        }
        match refusal.challenge.as_deref() {
            Some("insufficient_scope") => return Answer::Errors(vec![Said::with("DENIED", None)]),
            Some("invalid_token") => return Answer::Errors(vec![Said::with("UNAUTHORIZED", None)]),
            _ => {}
        }
        let with = |message: &str| {
            let code = match (status, version) {
                (401, _) => "UNAUTHORIZED",
                (403, Version::V28) => "DENIED",
                (429, _) => "TOOMANYREQUESTS",
                _ => "UNKNOWN",
            };
            Answer::Errors(vec![Said::with(code, Some(message))])
        };
        // 28 looks whether it is JSON at all.
        let content_type = refusal.content_type.as_deref().map(|text| text.split(';').next().unwrap_or(text).trim());
        let json = matches!(content_type, Some("application/json" | "application/vnd.api+json"));
        if version == Version::V28 && !json {
            return with(body);
        }
        if let Some(details) = Said::details(body) {
            return with(&details);
        }
        if let Some(list) = Said::list(body) {
            return Answer::Errors(list);
        }
        if *status == 401 {
            return Answer::Errors(vec![Said::with("UNAUTHORIZED", None)]);
        }
        let why = match serde_json::from_str::<serde_json::Value>(body) {
            Ok(_) => "no error details found in HTTP response body".to_owned(),
            Err(_) => json_error(body),
        };
        Answer::Words(format!("error parsing HTTP {status} response body: {why}: {}", quote(body)))
    }

    /// All of it, as it is.
    fn whole(&self) -> String {
        match self {
            Answer::Errors(list) => Said::joined(list),
            Answer::Words(words) => words.clone(),
            Answer::Status(status) => format!("received unexpected HTTP status: {}", status_line(*status)),
        }
    }

    /// The first error, with what it means for a pull.
    fn first(&self, reference: &str) -> String {
        let Answer::Errors(list) = self else { return self.whole() };
        let Some(first) = list.first() else { return self.whole() };
        let text = first.text();
        match (first.code, &first.message) {
            ("denied", Some(_)) => format!(
                "pull access denied for {}, repository does not exist or may require 'docker login': {text}",
                familiar_name(reference)
            ),
            ("manifest unknown", Some(_)) => {
                format!("manifest for {} not found: {text}", with_tag(&familiar(reference)))
            }
            ("name unknown", Some(_)) => format!("repository {} not found: {text}", familiar_name(reference)),
            _ => text,
        }
    }

    /// How often one tries against such an answer.
    fn attempts(&self) -> u32 {
        let final_codes = ["unauthorized", "unsupported", "denied", "toomanyrequests", "name unknown"];
        match self {
            Answer::Errors(list) => {
                let last = list.first().is_some_and(|said| said.message.is_some() && final_codes.contains(&said.code));
                if last { 1 } else { ATTEMPTS }
            }
            Answer::Words(_) => 1,
            Answer::Status(_) => ATTEMPTS,
        }
    }
}

/// A familiar name with the tag that it has in any case.
fn with_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) { name.to_owned() } else { format!("{name}:latest") }
}
