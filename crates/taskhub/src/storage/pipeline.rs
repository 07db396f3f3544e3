//! How requests travel: one pool of connections, a bound on time and on bytes, retries, and
//! who is told of each try.
//!
//! The last policy of the pipeline is ours. There alone each try is visible with its whole
//! response, so that its time-out, its size limit and its observation hold for the SDK's
//! clients as for our own. Knows no operation of a service; errors that leave it hold no URL.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::headers::{CONTENT_LENGTH, Headers, RETRY_AFTER, USER_AGENT};
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{
    AsyncRawResponse, ClientMethodOptions, ClientOptions, Context, DeserializeWith, ExponentialRetryOptions, HttpClient, Request, Response,
    RetryOptions, Transport, Url, XmlFormat, pager::PagerOptions,
};
use bytes::BytesMut;
use futures::StreamExt;
use tracing::Instrument;

use super::error::{Failure, Origin, StorageError};
use super::{Account, Admission, Answered, NotAdmitted, ObservedRequest, Options, RequestObserver, Service};

/// A page of a table is at most 4 MiB; its JSON may be larger than what the service counts.
pub(super) const RESPONSE_LIMIT: usize = 16 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The services close idle connections after minutes; ours go first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_PER_HOST: usize = 64;
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(100);
const LONGEST_RETRY_DELAY: Duration = Duration::from_secs(4);
const AGENT: &str = concat!("durable-taskhub/", env!("CARGO_PKG_VERSION"));

/// The one pool of connections of an account.
pub(super) fn http_client(account: &Account) -> Result<reqwest::Client, StorageError> {
    let endpoints = [Service::Blob, Service::Queue, Service::Table].map(|service| account.url(service));
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .tcp_nodelay(true);
    // A proxy of the environment is for the way out; an emulator on this machine is not behind it.
    if endpoints.iter().any(|url| is_loopback(url)) {
        builder = builder.no_proxy();
    }
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        if endpoints.iter().any(|url| url.scheme() == "https") {
            return Err(Origin::new("connect", account.name(), account.host(Service::Table)).invalid(
                "the process has no TLS provider: call rustls::crypto::ring::default_provider().install_default() at the start of main",
            ));
        }
        // reqwest panics without a provider, even if it never meets TLS. Trusting nobody, this
        // configuration is safe for an account whose endpoints are all plain http.
        builder = builder.tls_backend_preconfigured(no_tls(account)?);
    }
    builder.build().map_err(|error| {
        Origin::new("connect", account.name(), account.host(Service::Table)).invalid(&format!("no HTTP client: {}", innermost(&error)))
    })
}

fn no_tls(account: &Account) -> Result<rustls::ClientConfig, StorageError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| {
        Origin::new("connect", account.name(), account.host(Service::Table)).invalid(&format!("no TLS configuration: {error}"))
    })?;
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What the clients of one service need: where it is, how to send, and how long to wait.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    url: Url,
    host: Arc<str>,
    total_timeout: Duration,
    client_options: ClientOptions,
}

impl Caller {
    pub(super) fn new(account: &Account, service: Service, options: &Options, http: reqwest::Client) -> Caller {
        let transport = BoundedTransport {
            http,
            service,
            attempt_timeout: options.attempt_timeout,
            observer: options.observer.clone(),
            admission: options.admission.clone(),
        };
        let retry = ExponentialRetryOptions {
            // The crate doubles once before its first wait.
            initial_delay: short(FIRST_RETRY_DELAY),
            max_delay: short(LONGEST_RETRY_DELAY),
            max_retries: options.max_retries,
            max_total_elapsed: short(options.total_timeout),
        };
        Caller {
            url: account.url(service).clone(),
            host: account.host(service).into(),
            total_timeout: options.total_timeout,
            client_options: ClientOptions {
                per_try_policies: vec![account.credential().policy(account.name(), service)],
                retry: if options.max_retries == 0 { RetryOptions::none() } else { RetryOptions::exponential(retry) },
                transport: Some(Transport::with_policy(Arc::new(transport))),
                ..ClientOptions::default()
            },
        }
    }

    /// The service's endpoint.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// What the SDK's clients and our pipeline are built with.
    pub(super) fn client_options(&self) -> ClientOptions {
        self.client_options.clone()
    }

    /// Begins a call of `operation` (such as `queue.put`) on the thing of this name.
    pub(super) fn call(&self, operation: &'static str, target: &str) -> Call {
        let origin = Origin::new(operation, target, &self.host);
        let progress = Progress { operation, limit: RESPONSE_LIMIT, once: false, last: Arc::default() };
        Call { origin, total_timeout: self.total_timeout, progress }
    }
}

fn short(duration: Duration) -> azure_core::time::Duration {
    azure_core::time::Duration::try_from(duration).unwrap_or(azure_core::time::Duration::MAX)
}

/// One call: possibly several tries, and for lists several pages, under one deadline each.
pub(super) struct Call {
    pub(super) origin: Origin,
    total_timeout: Duration,
    progress: Progress,
}

/// Travels in the request's context to the transport, and brings back what the last try met.
#[derive(Clone)]
struct Progress {
    operation: &'static str,
    limit: usize,
    once: bool,
    last: Arc<Mutex<Option<Failure>>>,
}

impl Call {
    /// Bounds each response of this call to `limit` bytes.
    pub(super) fn limit(mut self, limit: usize) -> Call {
        self.progress.limit = limit;
        self
    }

    /// Does not repeat a try that failed, whatever it met: for what would be done twice if only the answer was lost.
    pub(super) fn once(mut self) -> Call {
        self.progress.once = true;
        self
    }

    pub(super) fn context(&self) -> Context<'static> {
        Context::new().with_value(self.progress.clone())
    }

    pub(super) fn options(&self) -> ClientMethodOptions<'static> {
        ClientMethodOptions { context: self.context() }
    }

    pub(super) fn pager_options(&self) -> PagerOptions<'static> {
        PagerOptions { context: self.context(), ..PagerOptions::default() }
    }

    /// The model of an answer in XML, whose document begins with `root`.
    ///
    /// The crates take any document for an empty list: a proxy's login page would be an empty queue.
    pub(super) fn model<T: DeserializeWith<XmlFormat>>(&self, response: Response<T, XmlFormat>, root: &str) -> Result<T, StorageError> {
        let head = &response.body()[..response.body().len().min(512)];
        if !String::from_utf8_lossy(head).contains(root) {
            return Err(self.origin.unexpected("the answer is not a list"));
        }
        response.into_model().map_err(|error| self.origin.error(error))
    }

    /// Awaits `work` for no longer than the total time-out, as a span that says what was asked of whom, and nothing that was sent.
    ///
    /// `work` is put into a box at once: a request of the crates is up to 18 KB of future, and each caller up to the reconcile
    /// would hold it by value. In a debug build the start of a large input ran out of a thread's 2 MiB of stack.
    pub(super) fn run<T>(&self, work: impl Future<Output = azure_core::Result<T>>) -> impl Future<Output = Result<T, StorageError>> {
        let work = Box::pin(work);
        async move {
            let span = tracing::debug_span!(
                "storage",
                otel.name = self.progress.operation,
                otel.kind = "client",
                server.address = self.origin.host(),
                otel.status_code = tracing::field::Empty,
                http.response.status_code = tracing::field::Empty,
                error.r#type = tracing::field::Empty,
            );
            let result = self.bounded(work).instrument(span.clone()).await;
            if let Err(error) = &result {
                if let Some(status) = error.status() {
                    span.record("http.response.status_code", status);
                }
                span.record("error.type", tracing::field::debug(error.kind()));
                // Whether it is there, and as it was, is what many calls ask.
                if !error.is_not_found() && !error.is_already_exists() && !error.is_precondition_failed() {
                    span.record("otel.status_code", "ERROR");
                }
            }
            result
        }
    }

    async fn bounded<T>(&self, work: impl Future<Output = azure_core::Result<T>>) -> Result<T, StorageError> {
        match tokio::time::timeout(self.total_timeout, work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.origin.error(error)),
            Err(_) => {
                // What the tries met says more than that time ran out between them.
                let last = self.progress.last.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(self.origin.failed(last.unwrap_or(Failure::TimedOut(self.total_timeout))))
            }
        }
    }
}

struct BoundedTransport {
    http: reqwest::Client,
    service: Service,
    attempt_timeout: Duration,
    observer: Option<Arc<dyn RequestObserver>>,
    admission: Option<Arc<dyn Admission>>,
}

impl fmt::Debug for BoundedTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedTransport").field("service", &self.service).finish_non_exhaustive()
    }
}

#[async_trait]
impl Policy for BoundedTransport {
    async fn send(&self, context: &Context, request: &mut Request, _: &[Arc<dyn Policy>]) -> PolicyResult {
        let progress = context.value::<Progress>();
        let limit = progress.map_or(RESPONSE_LIMIT, |progress| progress.limit);
        request.insert_header(USER_AGENT, AGENT);

        let mut admitted = None;
        if let Some(admission) = &self.admission {
            if let Err(NotAdmitted) = admission.admit().await {
                // Of another kind than a broken connection: the pipeline does not try it again.
                return Err(azure_core::Error::with_error(ErrorKind::Other, Failure::Held, Failure::Held.to_string()));
            }
            admitted = Some(Admitted { admission: admission.as_ref(), answer: Answered { status: None, retry_after: None } });
        }
        let started = Instant::now();
        let outcome = match tokio::time::timeout(self.attempt_timeout, self.exchange(request, limit)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::TimedOut(self.attempt_timeout)),
        };
        let status = outcome.as_ref().ok().map(|response| u16::from(response.status()));
        if let Some(mut admitted) = admitted {
            let retry_after = outcome.as_ref().ok().and_then(|response| retry_after(response.headers()));
            admitted.answer = Answered { status, retry_after };
        }
        if let Some(observer) = &self.observer {
            observer.observe(&ObservedRequest {
                service: self.service,
                operation: progress.map_or("other", |progress| progress.operation),
                status,
                elapsed: started.elapsed(),
            });
        }
        if let Some(progress) = progress {
            let failure = match (&outcome, status) {
                (Ok(response), Some(status)) if status >= 400 => Some(Failure::of_response(status, response.headers(), b"")),
                (Err(failure), _) => Some(failure.clone()),
                _ => None,
            };
            *progress.last.lock().unwrap_or_else(PoisonError::into_inner) = failure.clone();
            if let Some(failure) = failure.filter(|_| progress.once) {
                // The retry policy passes on what is of no kind that it knows; answers it would judge by their status.
                let text = failure.to_string();
                return Err(azure_core::Error::with_error(ErrorKind::Other, failure, text));
            }
        }
        // The kind decides on the retry; the text must hold no URL, as the pipeline logs it.
        outcome.map_err(|failure| {
            let kind = if failure.may_pass() { ErrorKind::Io } else { ErrorKind::Other };
            let text = failure.to_string();
            azure_core::Error::with_error(kind, failure, text)
        })
    }
}

/// A try that was admitted. Whatever becomes of it, its end is told.
struct Admitted<'a> {
    admission: &'a dyn Admission,
    answer: Answered,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.admission.answered(self.answer);
    }
}

impl BoundedTransport {
    async fn exchange(&self, request: &Request, limit: usize) -> Result<AsyncRawResponse, Failure> {
        let response = self.http.execute_request(request).await.map_err(|error| failure_of(&error))?;
        let (status, headers, mut body) = response.deconstruct();
        let announced = headers.get_optional_as::<u64, _>(&CONTENT_LENGTH).ok().flatten();
        // The answer to HEAD announces the length of a body that does not come.
        let has_body = request.method() != azure_core::http::Method::Head;
        if has_body && announced.is_some_and(|length| length > limit as u64) {
            return Err(Failure::TooLarge(limit as u64));
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| failure_of(&error))?;
            if bytes.len() + chunk.len() > limit {
                return Err(Failure::TooLarge(limit as u64));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(AsyncRawResponse::from_bytes(status, headers, bytes.freeze()))
    }
}

/// In seconds, as the storage services give it.
fn retry_after(headers: &Headers) -> Option<Duration> {
    headers.get_optional_str(&RETRY_AFTER).and_then(|text| text.trim().parse().ok()).map(Duration::from_secs)
}

/// The cause alone: the outer errors hold the URL, whose query may be a SAS.
fn failure_of(error: &azure_core::Error) -> Failure {
    match error.kind() {
        ErrorKind::Connection => Failure::Unreachable(innermost(error)),
        ErrorKind::Io => Failure::Broken(innermost(error)),
        _ => Failure::Request(innermost(error)),
    }
}

/// The text of the last error of the chain, unless that still names a URL.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    match current.downcast_ref::<reqwest::Error>() {
        Some(error) if error.is_timeout() => "timed out".to_owned(),
        Some(_) => "the request failed".to_owned(),
        None => current.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Storage, StorageErrorKind};
    use super::*;

    /// One test, as the provider is the whole process's.
    #[tokio::test]
    async fn https_needs_a_tls_provider_and_says_so() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("https://127.0.0.1:{}/account1", listener.local_addr().unwrap().port());
        let text =
            format!("AccountName=account1;AccountKey=a2V5;BlobEndpoint={endpoint};QueueEndpoint={endpoint};TableEndpoint={endpoint}");
        let account = Account::from_connection_string(&text).unwrap();
        let plain = Account::from_connection_string(&text.replace("https", "http")).unwrap();
        let options = Options { max_retries: 0, ..Options::default() };

        let error = Storage::new(account.clone(), options.clone()).unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::InvalidInput);
        assert!(error.to_string().contains("install_default()"), "{error}");
        Storage::new(plain, options.clone()).unwrap();

        rustls::crypto::ring::default_provider().install_default().unwrap();
        let storage = Storage::new(account, options).unwrap();
        let server = async {
            use tokio::io::AsyncWriteExt;
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let table = storage.table("Rows");
        let (result, ()) = tokio::join!(table.get("p", "r", &[]), server);
        let error = result.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Unreachable, "{error}");
    }

    #[test]
    fn only_this_machine_goes_around_the_proxy() {
        for (url, loopback) in [
            ("http://127.0.0.1:10000/a", true),
            ("http://[::1]:10000/a", true),
            ("http://localhost/a", true),
            ("https://orders1.blob.core.windows.net", false),
            ("http://10.0.0.1/a", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), loopback, "{url}");
        }
    }
}
