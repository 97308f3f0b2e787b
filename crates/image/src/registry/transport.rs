//! Single HTTP exchanges: blocking outside, on a private runtime inside.
//!
//! The calling thread never enters a runtime. It starts a task on the client's own threads and waits on a plain channel,
//! so a program that is itself asynchronous may call from anywhere. At most [`WINDOW`] pieces of a body are in memory.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Method, NoProxy, Proxy, StatusCode, Url};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::AbortHandle;

use super::dns::{LookupError, SystemResolver};
use super::error::{RegistryError, RequestLine, TimeoutPhase, TlsProblem, redact};
use super::options::{RegistryOptions, Timeouts};
use super::tls;

/// Pieces of a body in flight.
const WINDOW: usize = 8;
/// The size of a piece of an upload in bytes.
const PIECE: usize = 64 * 1024;
/// How often a waiting thread looks at the cancel flag.
const TICK: Duration = Duration::from_millis(50);

/// Whose certificates are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Trust {
    /// The system's authorities.
    System,
    /// The system's and those of the file given for this host.
    Host(String),
    /// Any certificate. Also for plain HTTP, which then need not load the authorities.
    Anyone,
}

/// A request.
pub(super) struct Exchange<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) trust: Trust,
    pub(super) headers: HeaderMap,
    pub(super) body: Body<'a>,
}

/// The body of a request.
pub(super) enum Body<'a> {
    None,
    Bytes(Bytes),
    /// Exactly `size` bytes of `source`; `sent` hears how many have gone so far.
    Stream {
        source: &'a mut dyn Read,
        size: u64,
        sent: &'a mut dyn FnMut(u64),
    },
}

/// Why an exchange came to nothing.
pub(super) enum Failure {
    /// The exchange itself.
    Registry(RegistryError),
    /// The source of the body.
    Source(io::Error),
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Failure {
        Failure::Registry(error)
    }
}

/// What the task tells the calling thread.
enum Event {
    Taken(u64),
    Head(StatusCode, HeaderMap),
    Piece(Bytes),
    End,
    Failed(reqwest::Error),
}

/// Performs exchanges.
pub(super) struct Transport {
    options: RegistryOptions,
    resolver: SystemResolver,
    runtime: Mutex<Option<Runtime>>,
    clients: Mutex<HashMap<Trust, reqwest::Client>>,
}

impl Drop for Transport {
    fn drop(&mut self) {
        // An ordinary drop of a runtime waits for its threads, which is forbidden inside a foreign runtime.
        if let Some(runtime) = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            runtime.shutdown_background();
        }
    }
}

impl Transport {
    pub(super) fn new(options: RegistryOptions) -> Result<Transport, RegistryError> {
        let transport = Transport {
            options,
            resolver: SystemResolver::default(),
            runtime: Mutex::new(None),
            clients: Mutex::new(HashMap::new()),
        };
        transport.proxies()?;
        Ok(transport)
    }

    pub(super) fn options(&self) -> &RegistryOptions {
        &self.options
    }

    /// Sends a request and waits for the head of the answer, whatever its status. Redirections are not followed.
    pub(super) fn exchange(&self, exchange: Exchange<'_>, cancel: &AtomicBool) -> Result<Answer, Failure> {
        let Exchange { method, url, trust, headers, body } = exchange;
        let Timeouts { idle, commit, .. } = self.options.timeouts;
        let handle = self.handle()?;
        let client = self.client(trust)?;
        let (to_caller, events) = channel();
        let mut request = client.request(method.clone(), url.clone()).headers(headers);
        let mut stream = None;
        match body {
            Body::None => {}
            Body::Bytes(bytes) => request = request.body(bytes),
            Body::Stream { source, size, sent } => {
                let (pieces, from_caller) = unbounded_channel();
                let upload = UploadBody { pieces: from_caller, left: size, events: to_caller.clone() };
                request = request.body(reqwest::Body::wrap(upload));
                stream = Some((source, size, sent, pieces));
            }
        }
        let credit = Arc::new(Semaphore::new(WINDOW));
        let task = handle.spawn(run(request, to_caller, credit.clone()));
        let mut answer = Answer {
            method,
            url,
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            events,
            credit,
            task: task.abort_handle(),
            idle,
        };
        if let Some((source, size, sent, pieces)) = stream {
            let mut left = size;
            let mut in_flight = 0;
            let mut gone = 0;
            let mut buffer = vec![0; PIECE];
            loop {
                // With the window open the loop reads the source, else it waits for the network.
                let event = if left > 0 && in_flight < WINDOW {
                    let want = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                    let n = read_some(source, &mut buffer[..want]).map_err(Failure::Source)?;
                    if n == 0 {
                        let missing = format!("{left} bytes less than promised");
                        return Err(Failure::Source(io::Error::new(io::ErrorKind::UnexpectedEof, missing)));
                    }
                    left -= n as u64;
                    in_flight += 1;
                    // If nobody takes it, the task has ended and says so by an event.
                    let _ = pieces.send(Bytes::copy_from_slice(&buffer[..n]));
                    check(cancel)?;
                    match answer.events.try_recv() {
                        Ok(event) => event,
                        Err(_) => continue,
                    }
                } else {
                    let all_gone = left == 0 && in_flight == 0;
                    answer.idle = if all_gone { commit } else { idle };
                    answer.wait(TimeoutPhase::Answer, cancel)?
                };
                match event {
                    Event::Taken(n) => {
                        in_flight -= 1;
                        gone += n;
                        sent(gone);
                    }
                    Event::Head(status, headers) => {
                        (answer.status, answer.headers, answer.idle) = (status, headers, idle);
                        return Ok(answer);
                    }
                    Event::Failed(error) => {
                        return Err(answer.explain(&error, TimeoutPhase::Answer).into());
                    }
                    Event::Piece(_) | Event::End => {}
                }
            }
        }
        answer.idle = if answer.method == Method::PUT { commit } else { idle };
        loop {
            match answer.wait(TimeoutPhase::Answer, cancel)? {
                Event::Head(status, headers) => {
                    (answer.status, answer.headers, answer.idle) = (status, headers, idle);
                    return Ok(answer);
                }
                Event::Failed(error) => {
                    return Err(answer.explain(&error, TimeoutPhase::Answer).into());
                }
                Event::Taken(_) | Event::Piece(_) | Event::End => {}
            }
        }
    }

    fn handle(&self) -> Result<Handle, RegistryError> {
        let mut slot = lock(&self.runtime);
        if let Some(runtime) = &*slot {
            return Ok(runtime.handle().clone());
        }
        // Two threads keep TLS of several blobs going; hashing is done by the callers' threads.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("registry")
            .enable_all()
            .build()
            .map_err(RegistryError::Runtime)?;
        let handle = runtime.handle().clone();
        *slot = Some(runtime);
        Ok(handle)
    }

    fn client(&self, trust: Trust) -> Result<reqwest::Client, RegistryError> {
        let mut clients = lock(&self.clients);
        if let Some(client) = clients.get(&trust) {
            return Ok(client.clone());
        }
        let bundle = self.options.ca_bundle.as_deref();
        let tls = match &trust {
            Trust::System => tls::verifying(bundle, None)?,
            Trust::Host(host) => {
                tls::verifying(bundle, self.options.certificates.get(host).map(|path| path.as_path()))?
            }
            Trust::Anyone => tls::trusting_anyone()?,
        };
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(Arc::new(self.resolver.clone()))
            .user_agent(&self.options.user_agent)
            .connect_timeout(self.options.timeouts.connect)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy();
        for proxy in self.proxies()? {
            builder = builder.proxy(proxy);
        }
        let client = builder.build().map_err(|error| RegistryError::Runtime(io::Error::other(error)))?;
        clients.insert(trust, client.clone());
        Ok(client)
    }

    fn proxies(&self) -> Result<Vec<Proxy>, RegistryError> {
        let options = &self.options.proxy;
        let direct = format!("localhost,127.0.0.0/8,::1,{}", options.no_proxy.as_deref().unwrap_or_default());
        let direct = NoProxy::from_string(&direct);
        let mut proxies = Vec::new();
        type Make = fn(&str) -> reqwest::Result<Proxy>;
        for (option, address, make) in [
            ("http proxy", &options.http, (|address| Proxy::http(address)) as Make),
            ("https proxy", &options.https, |address| Proxy::https(address)),
        ] {
            let Some(address) = address.as_deref().filter(|address| !address.is_empty()) else {
                continue;
            };
            let proxy = make(address).map_err(|error| RegistryError::Option {
                option,
                value: Url::parse(address).map(|url| redact(&url)).unwrap_or_else(|_| "(not an address)".to_owned()),
                problem: innermost(&error),
            })?;
            proxies.push(proxy.no_proxy(direct.clone()));
        }
        Ok(proxies)
    }
}

/// An answer whose body is still to come. Dropping it abandons the rest.
pub(super) struct Answer {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    events: Receiver<Event>,
    credit: Arc<Semaphore>,
    task: AbortHandle,
    /// How long to wait for the next event.
    idle: Duration,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Answer {
    /// A header as text; `None` if absent or not ASCII.
    pub(super) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The length of the body in bytes, if announced.
    pub(super) fn length(&self) -> Option<u64> {
        self.header(reqwest::header::CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// The next piece of the body, `None` at its end.
    pub(super) fn piece(&mut self, cancel: &AtomicBool) -> Result<Option<Bytes>, RegistryError> {
        loop {
            match self.wait(TimeoutPhase::Body, cancel)? {
                Event::Piece(bytes) => {
                    self.credit.add_permits(1);
                    return Ok(Some(bytes));
                }
                Event::End => return Ok(None),
                Event::Failed(error) => return Err(self.explain(&error, TimeoutPhase::Body)),
                Event::Taken(_) | Event::Head(..) => {}
            }
        }
    }

    /// The whole body.
    pub(super) fn bytes(mut self, limit: u64, cancel: &AtomicBool) -> Result<Vec<u8>, RegistryError> {
        let too_long =
            |answer: &Answer| RegistryError::TooLong { at: RequestLine::of(&answer.method, &answer.url), limit };
        if self.length().is_some_and(|length| length > limit) {
            return Err(too_long(&self));
        }
        let mut body = Vec::new();
        while let Some(piece) = self.piece(cancel)? {
            if (body.len() + piece.len()) as u64 > limit {
                return Err(too_long(&self));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// As much of the body as comes, at most `limit` bytes; for error answers, whose loss matters little.
    pub(super) fn some_bytes(mut self, limit: usize, cancel: &AtomicBool) -> Vec<u8> {
        let mut body = Vec::new();
        while body.len() < limit {
            match self.piece(cancel) {
                Ok(Some(piece)) => body.extend_from_slice(&piece[..piece.len().min(limit - body.len())]),
                Ok(None) | Err(_) => break,
            }
        }
        body
    }

    fn wait(&self, phase: TimeoutPhase, cancel: &AtomicBool) -> Result<Event, RegistryError> {
        let start = Instant::now();
        loop {
            check(cancel)?;
            match self.events.recv_timeout(TICK) {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Timeout) if start.elapsed() < self.idle => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(RegistryError::Timeout { at: RequestLine::of(&self.method, &self.url), phase });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(RegistryError::Broken {
                        at: RequestLine::of(&self.method, &self.url),
                        message: "the exchange was abandoned".to_owned(),
                        source: None,
                    });
                }
            }
        }
    }

    fn explain(&self, error: &reqwest::Error, phase: TimeoutPhase) -> RegistryError {
        explain(&self.method, &self.url, error, phase)
    }
}

/// Waits, but not longer than until the caller cancels.
pub(super) fn sleep(pause: Duration, cancel: &AtomicBool) -> Result<(), RegistryError> {
    let end = Instant::now() + pause;
    loop {
        check(cancel)?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(TICK));
    }
}

pub(super) fn check(cancel: &AtomicBool) -> Result<(), RegistryError> {
    if cancel.load(Ordering::Relaxed) { Err(RegistryError::Cancelled) } else { Ok(()) }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The guarded values are caches that are whole after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_some(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The task of one exchange. A send that fails means that the caller has gone, which also aborts the task.
async fn run(request: reqwest::RequestBuilder, events: Sender<Event>, credit: Arc<Semaphore>) {
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => {
            let _ = events.send(Event::Failed(error));
            return;
        }
    };
    let _ = events.send(Event::Head(response.status(), std::mem::take(response.headers_mut())));
    loop {
        match credit.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return,
        }
        let event = match response.chunk().await {
            Ok(Some(bytes)) => Event::Piece(bytes),
            Ok(None) => Event::End,
            Err(error) => Event::Failed(error),
        };
        let more = matches!(event, Event::Piece(_));
        if events.send(event).is_err() || !more {
            return;
        }
    }
}

/// The body of an upload: pieces from the calling thread, each acknowledged when the connection takes it.
struct UploadBody {
    pieces: UnboundedReceiver<Bytes>,
    left: u64,
    events: Sender<Event>,
}

impl http_body::Body for UploadBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        match this.pieces.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(piece)) => {
                this.left = this.left.saturating_sub(piece.len() as u64);
                let _ = this.events.send(Event::Taken(piece.len() as u64));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Poll::Ready(None) => Poll::Ready(Some(Err(io::Error::other("the upload was abandoned")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The causes of an error, outermost first. An [`io::Error`] hides the error it wraps, so that is added.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut chain: Vec<&'a (dyn Error + 'static)> = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next.filter(|_| chain.len() < 32) {
        chain.push(cause);
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    chain
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

fn explain(method: &Method, url: &Url, error: &reqwest::Error, phase: TimeoutPhase) -> RegistryError {
    let at = RequestLine::of(method, url);
    let chain = causes(error);
    fn first<'a, T: Error + 'static>(chain: &[&'a (dyn Error + 'static)]) -> Option<&'a T> {
        chain.iter().find_map(|cause| cause.downcast_ref::<T>())
    }
    if let Some(lookup) = first::<LookupError>(&chain) {
        let LookupError { host, servers, problem } = lookup.clone();
        return RegistryError::Resolve { at, host, servers, problem };
    }
    if let Some(tls) = first::<rustls::Error>(&chain) {
        return RegistryError::Tls { at, problem: tls_problem(tls) };
    }
    let system = chain
        .iter()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .rfind(|io| io.get_ref().is_none_or(|inner| !inner.is::<io::Error>()))
        .map(|io| match io.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(io.kind(), io.to_string()),
        });
    let deepest = chain.last().map(ToString::to_string).unwrap_or_default();
    if error.is_timeout() {
        let phase = if error.is_connect() { TimeoutPhase::Connect } else { phase };
        return RegistryError::Timeout { at, phase };
    }
    if error.is_connect() {
        let through_proxy = chain.iter().any(|cause| {
            let text = cause.to_string();
            text.starts_with("tunnel error") || text.starts_with("proxy") || text.starts_with("socks")
        });
        return match system {
            Some(source) if !through_proxy => {
                let literal = match (url.host(), url.port_or_known_default()) {
                    (Some(host), Some(port)) if url.domain().is_none() => Some(format!("{host}:{port}")),
                    _ => None,
                };
                let address = literal.or_else(|| chain.iter().find_map(|cause| tried_address(*cause)));
                RegistryError::Connect { at, address, source }
            }
            _ if through_proxy => RegistryError::Proxy { at, message: deepest },
            _ => RegistryError::Broken { at, message: deepest, source: None },
        };
    }
    let malformed = first::<hyper::Error>(&chain).is_some_and(hyper::Error::is_parse) || error.is_builder();
    if malformed {
        return RegistryError::Protocol { at, problem: deepest };
    }
    RegistryError::Broken { at, message: deepest, source: system }
}

/// The address in the connector's error, which shows it to those who debug alone:
/// `ConnectError("tcp connect error", 10.0.0.1:443, …)`.
fn tried_address(cause: &(dyn Error + 'static)) -> Option<String> {
    let text = format!("{cause:?}");
    let rest = text.strip_prefix("ConnectError(")?;
    rest.split(", ").find(|part| part.parse::<std::net::SocketAddr>().is_ok()).map(str::to_owned)
}

fn tls_problem(error: &rustls::Error) -> TlsProblem {
    use rustls::{CertificateError as C, Error as E, InvalidMessage};
    match error {
        E::InvalidMessage(InvalidMessage::InvalidContentType) => TlsProblem::PlainHttp,
        E::InvalidCertificate(C::UnknownIssuer) => TlsProblem::UnknownAuthority,
        E::InvalidCertificate(C::NotValidForNameContext { expected, presented }) => {
            // Each as `DnsName("a.example")`.
            let name = |text: &String| match text.split_once("(\"") {
                Some((_, name)) => name.trim_end_matches("\")").to_owned(),
                None => text.clone(),
            };
            TlsProblem::WrongName { host: expected.to_str().into_owned(), names: presented.iter().map(name).collect() }
        }
        E::InvalidCertificate(C::ExpiredContext { time, not_after }) => {
            TlsProblem::Expired { now: time.as_secs(), not_after: Some(not_after.as_secs()), not_before: None }
        }
        E::InvalidCertificate(C::NotValidYetContext { time, not_before }) => {
            TlsProblem::Expired { now: time.as_secs(), not_after: None, not_before: Some(not_before.as_secs()) }
        }
        error => TlsProblem::Other(error.to_string()),
    }
}
