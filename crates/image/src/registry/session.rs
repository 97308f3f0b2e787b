//! Requests as a registry wants them: right scheme, authorised, redirected, tried again.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};

use super::auth::{AuthCache, Authorization, parse_challenges};
use super::endpoint::{Endpoint, Endpoints, Scheme};
use super::error::{
    ERROR_BODY_LIMIT, Refusal, Refuser, RegistryError, RegistryErrorKind, RequestLine, Subject, parse_api_errors,
    redact,
};
use super::options::{RegistryOptions, TellingError};
use super::transport::{Answer, Body, Exchange, Failure, Transport, Trust, lock, sleep};
use super::{TransferEvent, random_u32};

/// At most so many redirections are followed, as in Go.
const REDIRECTIONS: usize = 10;
/// Attempts at a mirror: there is another place to ask.
const MIRROR_ATTEMPTS: u32 = 2;
/// A mirror that could not be reached is passed over for so long.
const MIRROR_PAUSE: Duration = Duration::from_secs(60);

/// The state behind a client.
pub(super) struct Session {
    pub(super) transport: Transport,
    pub(super) endpoints: Endpoints,
    pub(super) auth: AuthCache,
    /// Whether to ask for a refresh token along with an access token.
    pub(super) offline: bool,
    /// The scheme found for hosts that may be plain.
    schemes: Mutex<HashMap<String, Scheme>>,
    /// Mirrors out of reach, and since when.
    down: Mutex<HashMap<String, Instant>>,
}

/// A request without its authorisation.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Body<'a>,
}

impl Request<'_> {
    pub(super) fn new(method: Method, url: Url) -> Request<'static> {
        Request { method, url, headers: HeaderMap::new(), body: Body::None }
    }
}

impl Session {
    pub(super) fn new(options: RegistryOptions, offline: bool) -> Result<Session, RegistryError> {
        Ok(Session {
            endpoints: Endpoints::new(&options)?,
            transport: Transport::new(options)?,
            auth: AuthCache::default(),
            offline,
            schemes: Mutex::default(),
            down: Mutex::default(),
        })
    }

    /// The address of the API at an endpoint. For a host that may be plain, HTTPS is tried first, then HTTP, as Docker
    /// does; the outcome is remembered.
    pub(super) fn base(&self, endpoint: &Endpoint, cancel: &AtomicBool) -> Result<Url, RegistryError> {
        let url = |scheme| {
            endpoint.base(scheme).map_err(|error| RegistryError::Option {
                option: "registry",
                value: endpoint.host.clone(),
                problem: error.to_string(),
            })
        };
        if let Some(scheme) = endpoint.scheme {
            return url(scheme);
        }
        if let Some(scheme) = lock(&self.schemes).get(&endpoint.host) {
            return url(*scheme);
        }
        let mut scheme = Scheme::Https;
        match self.exchange(Request::new(Method::GET, url(scheme)?), cancel) {
            Ok(_) => {}
            Err(RegistryError::Cancelled) => return Err(RegistryError::Cancelled),
            Err(_) => {
                scheme = Scheme::Http;
                self.exchange(Request::new(Method::GET, url(scheme)?), cancel)?;
            }
        }
        lock(&self.schemes).insert(endpoint.host.clone(), scheme);
        url(scheme)
    }

    /// Sends a request to an endpoint with the authorisation it wants. The answer may have any status but one that
    /// redirects; an answer of 401 has been argued about. The flag tells whether the request stood for a user.
    pub(super) fn send(
        &self,
        endpoint: &Endpoint,
        base: &Url,
        scopes: &[String],
        mut request: Request<'_>,
        cancel: &AtomicBool,
    ) -> Result<Sent, RegistryError> {
        let ours = is_same_origin(base, &request.url);
        let known = if ours { self.known_authorization(endpoint, base, scopes, cancel)? } else { None };
        let again = match &request.body {
            Body::None => Some(Body::None),
            Body::Bytes(bytes) => Some(Body::Bytes(bytes.clone())),
            Body::Stream { .. } => None,
        };
        let (method, url, headers) = (request.method.clone(), request.url.clone(), request.headers.clone());
        authorize(&mut request.headers, known.as_ref());
        let (answer, elsewhere) = self.follow(request, cancel)?;
        let sent = |answer, elsewhere: bool, authorization: Option<&Authorization>| Sent {
            answer,
            by: if elsewhere || !ours { Refuser::Elsewhere } else { Refuser::Registry },
            authenticated: authorization.is_some_and(|a| a.authenticated),
        };
        if answer.status != StatusCode::UNAUTHORIZED || elsewhere || !ours {
            return Ok(sent(answer, elsewhere, known.as_ref()));
        }
        let next = self.answer_challenge(endpoint, base, scopes, &answer.headers, known.as_ref(), cancel)?;
        let (Some(next), Some(body)) = (next, again) else {
            return Ok(sent(answer, false, known.as_ref()));
        };
        drop(answer);
        let mut request = Request { method, url, headers, body };
        authorize(&mut request.headers, Some(&next));
        let (answer, elsewhere) = self.follow(request, cancel)?;
        Ok(sent(answer, elsewhere, Some(&next)))
    }

    /// Sends a request as it is, and follows redirections of GET and HEAD. The authorisation is for one origin only: it is
    /// dropped on the way to another host, port or scheme. The flag tells whether the answer comes from such.
    pub(super) fn follow(&self, request: Request<'_>, cancel: &AtomicBool) -> Result<(Answer, bool), RegistryError> {
        let origin = request.url.clone();
        let (method, mut headers) = (request.method.clone(), request.headers.clone());
        let followable = matches!(method, Method::GET | Method::HEAD);
        let mut answer = self.exchange(request, cancel)?;
        let mut elsewhere = false;
        for _ in 0..REDIRECTIONS {
            if !followable || !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((answer, elsewhere));
            }
            let target = answer.header(LOCATION).and_then(|location| answer.url.join(location).ok());
            let Some(target) = target.filter(|url| matches!(url.scheme(), "http" | "https")) else {
                return Err(protocol(&answer, "the redirection has no usable Location"));
            };
            if !is_same_origin(&origin, &target) {
                elsewhere = true;
                headers.remove(AUTHORIZATION);
            }
            let next = Request { method: method.clone(), url: target, headers: headers.clone(), body: Body::None };
            answer = self.exchange(next, cancel)?;
        }
        Err(protocol(&answer, "too many redirections"))
    }

    fn exchange(&self, request: Request<'_>, cancel: &AtomicBool) -> Result<Answer, RegistryError> {
        let Request { method, url, headers, body } = request;
        let trust = self.trust(&url);
        self.transport.exchange(Exchange { method, url, trust, headers, body }, cancel).map_err(|failure| match failure
        {
            Failure::Registry(error) => error,
            // Only uploads have a source, and they name the blob themselves.
            Failure::Source(source) => RegistryError::Runtime(source),
        })
    }

    /// As [`Session::send`] for a body that streams, whose failing source is told apart.
    pub(super) fn send_stream(
        &self,
        endpoint: &Endpoint,
        base: &Url,
        scopes: &[String],
        mut request: Request<'_>,
        cancel: &AtomicBool,
    ) -> Result<Sent, Failure> {
        let ours = is_same_origin(base, &request.url);
        let known = if ours { self.known_authorization(endpoint, base, scopes, cancel)? } else { None };
        authorize(&mut request.headers, known.as_ref());
        let Request { method, url, headers, body } = request;
        let trust = self.trust(&url);
        let answer = self.transport.exchange(Exchange { method, url, trust, headers, body }, cancel)?;
        if ours && answer.status == StatusCode::UNAUTHORIZED {
            // The body is gone; but the caller, who can make it anew, will find a fresh token.
            self.answer_challenge(endpoint, base, scopes, &answer.headers, known.as_ref(), cancel)?;
        }
        let by = if ours { Refuser::Registry } else { Refuser::Elsewhere };
        Ok(Sent { answer, by, authenticated: known.is_some_and(|a| a.authenticated) })
    }

    fn trust(&self, url: &Url) -> Trust {
        let (with_port, name) = host_of(url);
        if url.scheme() == "http" || self.endpoints.is_insecure(&with_port) {
            return Trust::Anyone;
        }
        let certificates = &self.transport.options().certificates;
        match [with_port, name].into_iter().find(|host| certificates.contains_key(host)) {
            Some(host) => Trust::Host(host),
            None => Trust::System,
        }
    }

    /// Whether secrets may go to this address in clear text.
    pub(super) fn may_be_plain(&self, url: &Url) -> bool {
        self.endpoints.is_insecure(&host_of(url).0)
    }

    /// Makes an error of an answer.
    pub(super) fn refusal(
        &self,
        answer: Answer,
        by: Refuser,
        about: Subject,
        authenticated: bool,
        cancel: &AtomicBool,
    ) -> RegistryError {
        let challenge_error = parse_challenges(&answer.headers)
            .into_iter()
            .find_map(|mut challenge| challenge.parameters.remove("error"));
        let retry_after = answer.header(RETRY_AFTER).and_then(parse_retry_after);
        let (method, url, status) = (answer.method.to_string(), redact(&answer.url), answer.status.as_u16());
        let content_type = answer.header(CONTENT_TYPE).map(str::to_owned);
        let body = answer.some_bytes(ERROR_BODY_LIMIT, cancel);
        let errors = parse_api_errors(&body);
        RegistryError::Refused(Box::new(Refusal {
            by,
            method,
            url,
            status,
            errors,
            body,
            retry_after,
            authenticated,
            challenge_error,
            about,
            head: None,
            content_type,
            content: None,
        }))
    }

    /// Runs `attempt` until it succeeds, fails for good, or has been tried `attempts` times.
    pub(super) fn retrying<T>(
        &self,
        attempts: u32,
        on_event: &mut dyn FnMut(TransferEvent<'_>),
        cancel: &AtomicBool,
        mut attempt: impl FnMut(&mut dyn FnMut(TransferEvent<'_>)) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut count = 1;
        loop {
            let error = match attempt(on_event) {
                Err(error) if error.is_transient() && count < attempts => error,
                result => return result,
            };
            self.pause(count, &error, on_event, cancel)?;
            count += 1;
        }
    }

    /// Waits before the next attempt.
    pub(super) fn pause(
        &self,
        attempt: u32,
        error: &RegistryError,
        on_event: &mut dyn FnMut(TransferEvent<'_>),
        cancel: &AtomicBool,
    ) -> Result<(), RegistryError> {
        let asked = error.refusal().and_then(|refusal| refusal.retry_after);
        let pause = self.transport.options().retries.pause(attempt, asked, random_u32());
        tracing::debug!(%error, attempt, ?pause, "trying again");
        on_event(TransferEvent::Retrying { attempt, pause, error });
        sleep(pause, cancel)
    }

    /// Runs `ask` at each endpoint in turn until one succeeds; [`TellingError`] says whose error counts. `ask` hears how
    /// many attempts it may make.
    pub(super) fn at_endpoints<T>(
        &self,
        endpoints: &[Endpoint],
        mut ask: impl FnMut(&Endpoint, u32) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let attempts = self.transport.options().retries.attempts.max(1);
        let ranked = self.transport.options().telling_error == TellingError::Furthest;
        let mut furthest: Option<RegistryError> = None;
        for endpoint in endpoints {
            if !endpoint.mirror {
                return ask(endpoint, attempts).map_err(|last| match furthest {
                    Some(error) if last.kind() != RegistryErrorKind::Cancelled && reach(&error) >= reach(&last) => {
                        error
                    }
                    _ => last,
                });
            }
            let since = lock(&self.down).get(&endpoint.host).copied();
            if since.is_some_and(|since| since.elapsed() < MIRROR_PAUSE) {
                continue;
            }
            let error = match ask(endpoint, attempts.min(MIRROR_ATTEMPTS)) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            tracing::debug!(mirror = %endpoint.host, %error, "passing over a mirror");
            use RegistryErrorKind as K;
            match error.kind() {
                K::Cancelled | K::Local => return Err(error),
                K::Resolve | K::Connect | K::Tls | K::Timeout => {
                    lock(&self.down).insert(endpoint.host.clone(), Instant::now());
                }
                _ => {}
            }
            if ranked && furthest.as_ref().is_none_or(|known| reach(known) < reach(&error)) {
                furthest = Some(error);
            }
        }
        Err(RegistryError::Option {
            option: "mirror",
            value: String::new(),
            problem: "there is no registry behind the mirrors".to_owned(),
        })
    }
}

/// How far a request came before it failed, as containerd ranks it.
fn reach(error: &RegistryError) -> u8 {
    match error {
        RegistryError::Refused(refusal) if refusal.by == Refuser::TokenServer => 1,
        RegistryError::Refused(refusal) if refusal.status == 404 => 2,
        RegistryError::Refused(_) => 3,
        _ => 1,
    }
}

/// An answer and what is needed to make a refusal of it.
pub(super) struct Sent {
    pub(super) answer: Answer,
    pub(super) by: Refuser,
    pub(super) authenticated: bool,
}

impl Sent {
    /// The error that this answer is.
    pub(super) fn refuse(self, session: &Session, about: Subject, cancel: &AtomicBool) -> RegistryError {
        session.refusal(self.answer, self.by, about, self.authenticated, cancel)
    }
}

pub(super) fn protocol(answer: &Answer, problem: &str) -> RegistryError {
    RegistryError::Protocol { at: RequestLine::of(&answer.method, &answer.url), problem: problem.to_owned() }
}

pub(super) fn is_same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

/// `HOST:PORT` if a port is named, else `HOST`; and `HOST`.
fn host_of(url: &Url) -> (String, String) {
    let name = url.host_str().unwrap_or_default().to_owned();
    let with_port = url.port().map_or_else(|| name.clone(), |port| format!("{name}:{port}"));
    (with_port, name)
}

fn authorize(headers: &mut HeaderMap, authorization: Option<&Authorization>) {
    if let Some(authorization) = authorization {
        headers.insert(AUTHORIZATION, authorization.header.clone());
    }
}

/// Seconds from a `Retry-After` header, in either of its forms (RFC 9110, section 10.2.3).
fn parse_retry_after(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(seconds);
    }
    let form = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = time::PrimitiveDateTime::parse(text, &form).ok()?.assume_utc();
    let seconds = (date - time::OffsetDateTime::now_utc()).whole_seconds();
    Some(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_retry_after() {
        assert_eq!(parse_retry_after(" 17 "), Some(17));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        assert!(parse_retry_after("Fri, 31 Dec 9999 23:59:59 GMT").unwrap() > 1_000_000);
        assert_eq!(parse_retry_after("soon"), None);
    }

    /// The status of the error that counts, where two mirrors and docker.io answer with these; 0 is no answer.
    fn telling(telling_error: TellingError, statuses: [u16; 3]) -> u16 {
        let mirrors = vec!["https://one.example".to_owned(), "https://two.example".to_owned()];
        let options = RegistryOptions { mirrors, telling_error, ..RegistryOptions::default() };
        let session = Session::new(options, false).unwrap();
        let endpoints = session.endpoints.for_pull(&"busybox".parse().unwrap()).unwrap();
        let mut statuses = statuses.into_iter();
        let at = RequestLine { method: "GET".to_owned(), url: "https://x/".to_owned() };
        let refusal = |status| Refusal {
            by: Refuser::Registry,
            method: at.method.clone(),
            url: at.url.clone(),
            status,
            errors: Vec::new(),
            body: Vec::new(),
            retry_after: None,
            authenticated: false,
            challenge_error: None,
            about: Subject::Manifest,
            head: None,
            content_type: None,
            content: None,
        };
        let asked = session.at_endpoints::<()>(&endpoints, |_, _| {
            Err(match statuses.next().unwrap() {
                0 => RegistryError::NoCredentials { at: Box::new(at.clone()) },
                status => RegistryError::Refused(Box::new(refusal(status))),
            })
        });
        asked.unwrap_err().refusal().map_or(0, |refusal| refusal.status)
    }

    #[test]
    fn the_error_of_several_endpoints() {
        use TellingError::{Furthest, Last};
        assert_eq!(telling(Last, [404, 500, 0]), 0);
        assert_eq!(telling(Last, [0, 0, 404]), 404);
        assert_eq!(telling(Furthest, [404, 0, 0]), 404);
        assert_eq!(telling(Furthest, [404, 500, 503]), 500);
        assert_eq!(telling(Furthest, [0, 404, 429]), 429);
        assert_eq!(telling(Furthest, [0, 0, 0]), 0);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| is_same_origin(&Url::parse(a).unwrap(), &Url::parse(b).unwrap());
        assert!(same("https://h/a", "https://h:443/b"));
        for other in ["http://h/", "https://h:444/", "https://x.h/"] {
            assert!(!same("https://h/", other), "{other}");
        }
    }
}
