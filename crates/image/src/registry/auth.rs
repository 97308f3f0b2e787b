//! Proving to a registry who asks: challenges, tokens and their cache.
//!
//! The flow is that of the distribution project's "Token Authentication Specification" and "OAuth2 token authentication".

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Url};
use serde::Deserialize;

use super::credentials::{Credential, Secret};
use super::endpoint::Endpoint;
use super::error::{Refuser, RegistryError, RequestLine, Subject, redact};
use super::session::{Request, Session};
use super::transport::{Body, lock};

/// How long a token lives that does not say so (token specification, `expires_in`).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is renewed this long before its end.
const MARGIN: Duration = Duration::from_secs(10);
const TOKEN_LIMIT: u64 = 1 << 20;
/// What this program calls itself at a token server.
const CLIENT_ID: &str = "rbuild";

/// One parsed challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Lower case.
    pub(super) scheme: String,
    /// Names in lower case.
    pub(super) parameters: HashMap<String, String>,
}

/// What a request is authorised with.
#[derive(Clone)]
pub(super) struct Authorization {
    pub(super) header: HeaderValue,
    /// Whether it stands for a user.
    pub(super) authenticated: bool,
    /// From when on it should be renewed.
    stale: Option<Instant>,
}

impl Authorization {
    fn new(text: &str, authenticated: bool, life: Option<Duration>) -> Option<Authorization> {
        let mut header = HeaderValue::from_str(text).ok()?;
        header.set_sensitive(true);
        let stale = life.map(|life| Instant::now() + life.saturating_sub(MARGIN.min(life / 2)));
        Some(Authorization { header, authenticated, stale })
    }

    fn is_fresh(&self) -> bool {
        self.stale.is_none_or(|stale| Instant::now() < stale)
    }
}

type Slot = Arc<Mutex<Option<Authorization>>>;

/// What has been learnt about the authentication of each host.
#[derive(Default)]
pub(super) struct AuthCache {
    /// By host; known challenges save a refused request for each new scope.
    challenges: Mutex<HashMap<String, Challenge>>,
    /// By host and scopes. The inner lock is held while a token is fetched, so that many threads fetch it once.
    slots: Mutex<HashMap<(String, String), Slot>>,
    /// The refresh token that came with the last access token.
    refresh: Mutex<Option<Secret>>,
    /// What passwords were used for, until somebody asks.
    uses: Mutex<Vec<CredentialUse>>,
}

/// A password, or what stands for one, was used.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CredentialUse {
    /// Host of the registry.
    pub host: String,
    /// For a token of this scope, as `library/busybox:pull`; `None` if the registry itself was shown the password.
    pub scope: Option<String>,
}

impl AuthCache {
    pub(super) fn refresh_token(&self) -> Option<Secret> {
        lock(&self.refresh).clone()
    }

    pub(super) fn take_uses(&self) -> Vec<CredentialUse> {
        std::mem::take(&mut *lock(&self.uses))
    }

    fn note_use(&self, endpoint: &Endpoint, scopes: Option<&[String]>) {
        let trimmed = |scope: &String| scope.strip_prefix("repository:").unwrap_or(scope).to_owned();
        let scope = scopes.map(|scopes| scopes.iter().map(trimmed).collect::<Vec<_>>().join(" "));
        lock(&self.uses).push(CredentialUse { host: endpoint.host.clone(), scope });
    }

    fn slot(&self, endpoint: &Endpoint, scopes: &[String]) -> Slot {
        lock(&self.slots).entry((endpoint.host.clone(), scopes.join(" "))).or_default().clone()
    }
}

impl Session {
    /// The authorisation for a request, if it is known that one is needed.
    pub(super) fn known_authorization(
        &self,
        endpoint: &Endpoint,
        base: &Url,
        scopes: &[String],
        cancel: &AtomicBool,
    ) -> Result<Option<Authorization>, RegistryError> {
        let slot = self.auth.slot(endpoint, scopes);
        let mut slot = lock(&slot);
        if let Some(known) = slot.as_ref().filter(|known| known.is_fresh()) {
            return Ok(Some(known.clone()));
        }
        let challenge = lock(&self.auth.challenges).get(&endpoint.host).cloned();
        let Some(challenge) = challenge else {
            return Ok(None);
        };
        *slot = Some(self.obtain(endpoint, base, &challenge, scopes, cancel)?);
        Ok(slot.clone())
    }

    /// The authorisation that answers a refusal; `None` if the same was refused already, or the challenge is unknown.
    pub(super) fn answer_challenge(
        &self,
        endpoint: &Endpoint,
        base: &Url,
        scopes: &[String],
        headers: &HeaderMap,
        refused: Option<&Authorization>,
        cancel: &AtomicBool,
    ) -> Result<Option<Authorization>, RegistryError> {
        let challenges = parse_challenges(headers);
        let find = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let Some(challenge) = find("bearer").or_else(|| find("basic")) else {
            return Ok(None);
        };
        let mut remembered = challenge.clone();
        // Scope and error belong to the one request; the rest to the host.
        remembered.parameters.retain(|name, _| name == "realm" || name == "service");
        lock(&self.auth.challenges).insert(endpoint.host.clone(), remembered);
        let slot = self.auth.slot(endpoint, scopes);
        let mut slot = lock(&slot);
        if let Some(known) = slot.as_ref() {
            let renewed_by_another = refused.is_none_or(|refused| refused.header != known.header);
            if renewed_by_another && known.is_fresh() {
                return Ok(Some(known.clone()));
            }
        }
        *slot = None;
        let obtained = self.obtain(endpoint, base, challenge, scopes, cancel)?;
        if refused.is_some_and(|refused| refused.header == obtained.header) {
            return Ok(None);
        }
        *slot = Some(obtained.clone());
        Ok(Some(obtained))
    }

    fn obtain(
        &self,
        endpoint: &Endpoint,
        base: &Url,
        challenge: &Challenge,
        scopes: &[String],
        cancel: &AtomicBool,
    ) -> Result<Authorization, RegistryError> {
        let credential = match &self.transport.options().credentials {
            Some(source) => source
                .get(&endpoint.server)
                .map_err(|source| RegistryError::Credentials { server: endpoint.server.clone(), source })?,
            None => None,
        };
        let malformed = || RegistryError::Protocol {
            at: RequestLine::of(&Method::GET, base),
            problem: "the credentials or the token cannot be sent in a header".to_owned(),
        };
        if challenge.scheme == "basic" {
            return match &credential {
                Some(Credential::Password { username, password }) => {
                    self.auth.note_use(endpoint, None);
                    let text = format!("Basic {}", BASE64.encode(format!("{username}:{}", password.reveal())));
                    Authorization::new(&text, true, None).ok_or_else(malformed)
                }
                _ => Err(RegistryError::NoCredentials { at: RequestLine::of(&Method::GET, base) }),
            };
        }
        if let Some(Credential::RegistryToken(token)) = &credential {
            return Authorization::new(&format!("Bearer {}", token.reveal()), true, None).ok_or_else(malformed);
        }
        if credential.is_some() {
            self.auth.note_use(endpoint, Some(scopes));
        }
        let (token, life) = self.fetch_token(endpoint, base, challenge, scopes, credential.as_ref(), cancel)?;
        Authorization::new(&format!("Bearer {}", token.reveal()), credential.is_some(), Some(life))
            .ok_or_else(malformed)
    }

    fn fetch_token(
        &self,
        endpoint: &Endpoint,
        base: &Url,
        challenge: &Challenge,
        scopes: &[String],
        credential: Option<&Credential>,
        cancel: &AtomicBool,
    ) -> Result<(Secret, Duration), RegistryError> {
        let strange = |problem: &str| RegistryError::Protocol {
            at: RequestLine::of(&Method::GET, base),
            problem: problem.to_owned(),
        };
        let realm = challenge.parameters.get("realm").ok_or_else(|| strange("the challenge names no realm"))?;
        let mut realm = base.join(realm).map_err(|_| strange("the realm of the challenge is no address"))?;
        if !matches!(realm.scheme(), "http" | "https") || realm.host_str().is_none() {
            return Err(strange("the realm of the challenge is no HTTP address"));
        }
        if credential.is_some() && realm.scheme() == "http" && !self.may_be_plain(&realm) {
            return Err(RegistryError::PlainTextSecret { url: redact(&realm) });
        }
        let mut wanted: Vec<&str> = scopes.iter().map(String::as_str).collect();
        if let Some(scope) = challenge.parameters.get("scope").filter(|scope| !wanted.contains(&scope.as_str())) {
            wanted.push(scope);
        }
        let service = challenge.parameters.get("service").map(String::as_str);
        let mut headers = HeaderMap::new();
        let request = match credential {
            Some(Credential::IdentityToken(token)) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                // A query is encoded just as such a form is.
                let mut form = Url::parse("http://form/").map_err(|_| strange("no form"))?;
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("service", service.unwrap_or_default())
                    .append_pair("client_id", CLIENT_ID)
                    .append_pair("refresh_token", token.reveal())
                    .append_pair("scope", &wanted.join(" "));
                let body = Bytes::from(form.query().unwrap_or_default().to_owned());
                Request { method: Method::POST, url: realm, headers, body: Body::Bytes(body) }
            }
            other => {
                {
                    // In the order of their names, as Go writes them.
                    let mut query = realm.query_pairs_mut();
                    if let Some(Credential::Password { username, .. }) = other {
                        query.append_pair("account", username);
                    }
                    if self.offline {
                        query.append_pair("client_id", CLIENT_ID).append_pair("offline_token", "true");
                    }
                    for scope in &wanted {
                        query.append_pair("scope", scope);
                    }
                    if let Some(service) = service {
                        query.append_pair("service", service);
                    }
                }
                if let Some(Credential::Password { username, password }) = other {
                    let text = format!("Basic {}", BASE64.encode(format!("{username}:{}", password.reveal())));
                    let mut value = HeaderValue::from_str(&text).map_err(|_| strange("unusable credentials"))?;
                    value.set_sensitive(true);
                    headers.insert(HeaderName::from_static("authorization"), value);
                }
                Request { method: Method::GET, url: realm, headers, body: Body::None }
            }
        };
        let url = request.url.clone();
        let (answer, _) = self.follow(request, cancel)?;
        if !answer.status.is_success() {
            return Err(self.refusal(answer, Refuser::TokenServer, Subject::Api, credential.is_some(), cancel));
        }
        let body = answer.bytes(TOKEN_LIMIT, cancel)?;
        let broken = |problem: &str| RegistryError::Protocol {
            at: RequestLine::of(&Method::GET, &url),
            problem: problem.to_owned(),
        };
        // The parser's own message could quote the token.
        let parsed: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| broken("the token answer is not valid JSON"))?;
        let token = [parsed.token, parsed.access_token].into_iter().flatten().find(|token| !token.is_empty());
        let token = token.ok_or_else(|| RegistryError::NoToken { at: RequestLine::of(&Method::GET, &url) })?;
        if let Some(refresh) = parsed.refresh_token.filter(|token| !token.is_empty()) {
            *lock(&self.auth.refresh) = Some(Secret::new(refresh));
        }
        let life = parsed.expires_in.filter(|seconds| *seconds > 0.0 && *seconds < 1e9).map(Duration::from_secs_f64);
        tracing::debug!(host = %endpoint.host, scopes = %wanted.join(" "), "got a token");
        Ok((Secret::new(token), life.unwrap_or(DEFAULT_LIFE)))
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<f64>,
}

/// Reads all `WWW-Authenticate` headers (RFC 9110, section 11.6.1). What does not parse is left out.
pub(super) fn parse_challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut all = Vec::new();
    for value in headers.get_all(WWW_AUTHENTICATE) {
        if let Ok(text) = value.to_str() {
            parse_challenge_list(text, &mut all);
        }
    }
    all
}

fn parse_challenge_list(text: &str, all: &mut Vec<Challenge>) {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.bytes().position(|b| !is_token(b)).unwrap_or(rest.len());
        if end == 0 {
            return;
        }
        let (word, after) = rest.split_at(end);
        let value = after.trim_start_matches([' ', '\t']);
        // A word before `=` is a parameter of the challenge at hand, any other word begins a new one.
        let Some(value) = value.strip_prefix('=') else {
            all.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: HashMap::new() });
            rest = after;
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let (content, after) = match value.strip_prefix('"') {
            Some(quoted) => {
                let mut content = String::new();
                let mut chars = quoted.char_indices();
                let mut end = quoted.len();
                while let Some((at, c)) = chars.next() {
                    match c {
                        '"' => {
                            end = at + 1;
                            break;
                        }
                        '\\' => content.extend(chars.next().map(|(_, c)| c)),
                        c => content.push(c),
                    }
                }
                (content, &quoted[end..])
            }
            None => {
                let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        if let Some(challenge) = all.last_mut() {
            challenge.parameters.insert(word.to_ascii_lowercase(), content);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<Challenge> {
        let mut all = Vec::new();
        parse_challenge_list(text, &mut all);
        all
    }

    #[test]
    fn challenges_are_read() {
        let all = parse(r#"Bearer realm="https://a/t",service="r.x",scope="repository:a/b:pull,push""#);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].scheme, "bearer");
        assert_eq!(all[0].parameters["scope"], "repository:a/b:pull,push");
        let both = parse(r#"Basic realm="a \"b\"", Bearer realm=x , Service = y"#);
        assert_eq!(both.iter().map(|c| c.scheme.as_str()).collect::<Vec<_>>(), ["basic", "bearer"]);
        assert_eq!(both[0].parameters["realm"], "a \"b\"");
        assert_eq!(both[1].parameters["service"], "y");
    }

    #[test]
    fn junk_gives_no_challenge_and_no_panic() {
        for text in ["", "=", "\"", "realm=\"x", "Bearer realm=\"\\", ",,,", "Bearer =", "Bearer é=\"é"] {
            let all = parse(text);
            assert!(all.len() <= 1, "{text}: {all:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_challenge_and_no_error_answer_breaks_the_reader(text in ".{0,60}", bytes: Vec<u8>) {
            parse(&text);
            super::super::error::parse_api_errors(&bytes);
        }
    }

    #[test]
    fn a_token_is_renewed_before_its_end() {
        assert!(Authorization::new("Bearer x", false, Some(Duration::from_secs(60))).unwrap().is_fresh());
        assert!(!Authorization::new("Bearer x", false, Some(Duration::ZERO)).unwrap().is_fresh());
        assert!(Authorization::new("Basic x", true, None).unwrap().is_fresh());
        assert!(Authorization::new("Bearer \n", false, None).is_none());
    }
}
