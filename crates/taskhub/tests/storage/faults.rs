//! Servers that fail on purpose: what no emulator does.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use durable_taskhub::storage::{Account, Condition, Entity, ObservedRequest, Options, Storage, StorageErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::emulator::Recorder;

/// Signs nothing that exists.
const KEY: &str = "c2VjcmV0LWtleS1vZi1hLXRlc3Q=";

/// What the server does with each request.
#[derive(Clone, Copy)]
enum Fault {
    /// Reads, and never answers.
    Silence,
    /// Reads, and closes the connection.
    Close,
    /// Answers this, and closes the connection.
    Answer(&'static str),
    /// Fails twice with 503, then has no such row.
    Twice503,
    /// Sends zeros for ever.
    Endless,
}

/// Serves requests with a fault until the test ends; keeps the heads of the requests.
async fn serve(fault: Fault) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let kept = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let kept = kept.clone();
            tokio::spawn(async move {
                let mut text = Vec::new();
                while !text.windows(4).any(|window| window == b"\r\n\r\n") {
                    let mut buffer = [0; 4096];
                    match stream.read(&mut buffer).await {
                        Ok(count) if count > 0 => text.extend_from_slice(&buffer[..count]),
                        _ => return,
                    }
                }
                let number = {
                    let mut kept = kept.lock().unwrap();
                    kept.push(String::from_utf8_lossy(&text).into_owned());
                    kept.len()
                };
                let answer = match fault {
                    Fault::Silence => return std::future::pending().await,
                    Fault::Close => return,
                    Fault::Answer(answer) => answer,
                    Fault::Twice503 if number <= 2 => BUSY,
                    Fault::Twice503 => NO_ROW,
                    Fault::Endless => {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
                        while stream.write_all(&[0; 65536]).await.is_ok() {}
                        return;
                    }
                };
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (port, requests)
}

const BUSY: &str = "HTTP/1.1 503 Busy\r\nx-ms-error-code: ServerBusy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const NO_ROW: &str = "HTTP/1.1 404 Not Found\r\nx-ms-error-code: ResourceNotFound\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

fn connection_string(port: u16, credential: &str) -> String {
    let endpoint = format!("http://127.0.0.1:{port}/account1");
    format!("AccountName=account1;{credential};BlobEndpoint={endpoint};QueueEndpoint={endpoint};TableEndpoint={endpoint}")
}

fn storage(port: u16, change: impl FnOnce(&mut Options)) -> (Storage, Arc<Recorder>) {
    let (recorder, mut options) = Recorder::options();
    change(&mut options);
    let account = Account::from_connection_string(&connection_string(port, &format!("AccountKey={KEY}"))).unwrap();
    (Storage::new(account, options).unwrap(), recorder)
}

fn statuses(requests: Vec<ObservedRequest>) -> Vec<Option<u16>> {
    requests.into_iter().map(|request| request.status).collect()
}

#[tokio::test]
async fn a_server_that_never_answers_times_out_by_attempt() {
    let (port, requests) = serve(Fault::Silence).await;
    let (storage, recorder) = storage(port, |options| {
        options.attempt_timeout = Duration::from_millis(300);
        options.max_retries = 1;
    });
    let started = Instant::now();
    let error = storage.table("Rows").get("p", "r", &[]).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Timeout, "{error}");
    assert!(error.is_transient());
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(statuses(recorder.take()), [None, None]);
    assert_eq!(requests.lock().unwrap().len(), 2);

    let started = Instant::now();
    let error = storage.queue("queue").peek(1).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Timeout, "{error}");
    let error = storage.container("container").get("x", 10).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Timeout, "{error}");
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_server_that_never_answers_times_out_in_total() {
    let (port, _) = serve(Fault::Silence).await;
    let (storage, _) = storage(port, |options| options.total_timeout = Duration::from_millis(500));
    let started = Instant::now();
    let error = storage.queue("queue").put("x", Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Timeout, "{error}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(error.to_string().contains("127.0.0.1 did not answer within 500ms"), "{error}");
}

#[tokio::test]
async fn a_closed_port_and_an_unknown_host_are_unreachable_within_seconds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let (storage, recorder) = storage(port, |_| {});
    let started = Instant::now();
    let error = storage.table("Rows").insert(&Entity::new("p", "r")).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("cannot reach 127.0.0.1: "), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(recorder.take().len(), 4);
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());

    let text = format!("AccountName=account1;AccountKey={KEY};DefaultEndpointsProtocol=http;EndpointSuffix=does-not-exist.invalid");
    let options = Options { max_retries: 1, ..Options::default() };
    let storage = Storage::new(Account::from_connection_string(&text).unwrap(), options).unwrap();
    let started = Instant::now();
    let error = storage.queue("queue").peek(1).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("account1.queue.does-not-exist.invalid"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_broken_connection_is_retried_and_then_unreachable() {
    let (port, requests) = serve(Fault::Close).await;
    let (storage, recorder) = storage(port, |options| options.max_retries = 2);
    let error = storage.queue("queue").put("x", Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Unreachable, "{error}");
    assert_eq!(statuses(recorder.take()), [None, None, None]);
    assert_eq!(requests.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn what_would_be_done_twice_is_tried_once() {
    const OOPS: &str = "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    for (fault, kind, refused) in [
        (Fault::Close, StorageErrorKind::Unreachable, false),
        (Fault::Answer(OOPS), StorageErrorKind::Server, false),
        (Fault::Answer(BUSY), StorageErrorKind::Throttled, true),
    ] {
        let (port, requests) = serve(fault).await;
        let (storage, recorder) = storage(port, |_| {});
        let error = storage.queue("queue").put_once("x", Duration::ZERO).await.unwrap_err();
        assert_eq!((error.kind(), error.was_refused()), (kind, refused), "{error}");
        assert_eq!((recorder.take().len(), requests.lock().unwrap().len()), (1, 1), "{error}");
    }
}

#[tokio::test]
async fn each_try_is_signed_anew_and_a_pause_heals() {
    let (port, requests) = serve(Fault::Twice503).await;
    let (storage, recorder) = storage(port, |_| {});
    assert_eq!(storage.table("Rows").get("p", "r", &[]).await.unwrap(), None);
    assert_eq!(statuses(recorder.take()), [Some(503), Some(503), Some(404)]);
    let requests = requests.lock().unwrap().clone();
    for request in &requests {
        let head = request.to_lowercase();
        assert_eq!(head.matches("\r\nauthorization: sharedkey account1:").count(), 1, "{request}");
        assert_eq!(head.matches("\r\nx-ms-date: ").count(), 1, "{request}");
        assert!(head.contains(&format!("\r\nuser-agent: durable-taskhub/{}\r\n", env!("CARGO_PKG_VERSION"))), "{request}");
        assert!(!head.contains("accept-encoding") && !head.contains("cookie"), "{request}");
        assert!(request.starts_with("GET /account1/Rows(PartitionKey='p',RowKey='r') HTTP/1.1\r\n"), "{request}");
    }
}

#[tokio::test]
async fn a_sas_is_sent_once_on_each_try() {
    let (port, requests) = serve(Fault::Twice503).await;
    let text = connection_string(port, "SharedAccessSignature=?sv=2019-07-07&sig=a%2Bb%3D");
    let storage = Storage::new(Account::from_connection_string(&text).unwrap(), Options::default()).unwrap();
    assert_eq!(storage.table("Rows").get("p", "r", &["A"]).await.unwrap(), None);
    for request in requests.lock().unwrap().iter() {
        assert!(request.contains("?%24select=A&sv=2019-07-07&sig=a%2Bb%3D HTTP/1.1\r\n"), "{request}");
        assert!(!request.to_lowercase().contains("authorization"), "{request}");
    }
}

#[tokio::test]
async fn a_busy_server_throttles_even_if_it_asks_for_a_long_wait() {
    let (port, requests) = serve(Fault::Answer(BUSY)).await;
    let (busy, _) = storage(port, |options| options.max_retries = 2);
    let error = busy.table("Rows").get("p", "r", &[]).await.unwrap_err();
    assert!(error.is_throttled(), "{error}");
    assert_eq!((error.status(), error.code()), (Some(503), Some("ServerBusy")));
    assert_eq!(requests.lock().unwrap().len(), 3);

    let answer = "HTTP/1.1 429 Slow\r\nRetry-After: 60\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (port, requests) = serve(Fault::Answer(answer)).await;
    let (slow, _) = storage(port, |options| options.total_timeout = Duration::from_secs(1));
    let started = Instant::now();
    for error in [slow.table("Rows").get("p", "r", &[]).await.unwrap_err(), slow.queue("queue").peek(1).await.unwrap_err()] {
        assert!(error.is_throttled(), "{error}");
        assert_eq!(error.status(), Some(429));
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!(requests.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_server_error_is_retried_a_bounded_number_of_times() {
    let answer = "HTTP/1.1 500 Oops\r\nContent-Length: 12\r\nConnection: close\r\n\r\nsecret=value";
    let (port, _) = serve(Fault::Answer(answer)).await;
    let (storage, recorder) = storage(port, |_| {});
    let started = Instant::now();
    for error in [storage.table("Rows").get("p", "r", &[]).await.unwrap_err(), storage.queue("queue").peek(1).await.unwrap_err()] {
        assert_eq!(error.kind(), StorageErrorKind::Server, "{error}");
        assert!(!error.to_string().contains("secret") && !format!("{error:?}").contains("secret"));
    }
    assert_eq!(recorder.take().len(), 8);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_answer_of_something_else_is_neither_a_missing_row_nor_followed() {
    let html = "HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\nConnection: close\r\n\r\n<html></html>";
    let elsewhere = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let login = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\nConnection: close\r\n\r\n<html></html>";
    for answer in [html, elsewhere, login] {
        let (port, requests) = serve(Fault::Answer(answer)).await;
        let (storage, _) = storage(port, |_| {});
        let error = storage.table("Rows").get("p", "r", &[]).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::UnexpectedResponse, "{error}");
        let error = storage.queue("queue").peek(1).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::UnexpectedResponse, "{error}");
        for error in [
            storage.list_queues("x").await.map(|_| ()).unwrap_err(),
            storage.queue("queue").receive(1, Duration::from_secs(1)).await.map(|_| ()).unwrap_err(),
            storage.queue("queue").put("x", Duration::ZERO).await.map(|_| ()).unwrap_err(),
            storage.queue("queue").approximate_count().await.map(|_| ()).unwrap_err(),
            storage.container("container").get("x", 100).await.map(|_| ()).unwrap_err(),
            storage.container("container").list("").await.map(|_| ()).unwrap_err(),
            storage.container("container").put("x", vec![1], true).await.map(|_| ()).unwrap_err(),
            storage.container("container").delete("x").await.map(|_| ()).unwrap_err(),
            storage.table("Rows").insert(&Entity::new("p", "r")).await.map(|_| ()).unwrap_err(),
            storage.table("Rows").create_if_missing().await.map(|_| ()).unwrap_err(),
            storage.table("Rows").delete("p", "r", Condition::Any).await.map(|_| ()).unwrap_err(),
        ] {
            assert_eq!(error.kind(), StorageErrorKind::UnexpectedResponse, "{error}");
        }
        assert_eq!(requests.lock().unwrap().len(), 13);
    }
}

#[tokio::test]
async fn no_answer_is_read_without_end() {
    let announced = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n";
    for fault in [Fault::Answer(announced), Fault::Endless] {
        let (port, requests) = serve(fault).await;
        let (storage, _) = storage(port, |_| {});
        let error = storage.table("Rows").get("p", "r", &[]).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::TooLarge, "{error}");
        let error = storage.container("container").get("x", 1000).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::TooLarge, "{error}");
        assert_eq!(requests.lock().unwrap().len(), 2, "not retried");
    }
}

/// Collects all that is logged on this thread, at every level.
struct Log(Arc<Mutex<String>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, attributes: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        attributes.record(&mut Fields(&self.0));
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut Fields(&self.0));
    }
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Fields(&self.0));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

struct Fields<'a>(&'a Mutex<String>);

impl tracing::field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.lock().unwrap().push_str(&format!("{field}={value:?}\n"));
    }
}

#[tokio::test]
async fn no_secret_reaches_logs_or_errors() {
    let log = Arc::new(Mutex::new(String::new()));
    let _guard = tracing::subscriber::set_default(Log(log.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap().port();
    drop(listener);
    let (refusing, _) = serve(Fault::Answer(
        "HTTP/1.1 403 No\r\nx-ms-error-code: AuthenticationFailed\r\nContent-Length: 18\r\nConnection: close\r\n\r\n<a>sig=TOPSECRET</a>",
    ))
    .await;
    let (broken, _) = serve(Fault::Close).await;
    let mut errors = Vec::new();
    for port in [closed, refusing, broken] {
        for credential in ["SharedAccessSignature=sv=2019-07-07&sig=TOPSECRET", "AccountKey=VE9QU0VDUkVU"] {
            let account = Account::from_connection_string(&connection_string(port, credential)).unwrap();
            let storage = Storage::new(account.clone(), Options { max_retries: 1, ..Options::default() }).unwrap();
            let kinds = [
                storage.table("Rows").get("p", "r", &[]).await.unwrap_err(),
                storage.queue("queue").peek(1).await.unwrap_err(),
                storage.container("container").get("x", 10).await.unwrap_err(),
            ];
            errors.push(format!("{account:?} {storage:?}"));
            errors.extend(kinds.into_iter().map(|error| format!("{error} {error:?} {:?}", std::error::Error::source(&error))));
        }
    }
    let log = log.lock().unwrap().clone();
    assert!(log.contains("Failed response"), "the log was not recorded: {log}");
    for text in errors.iter().chain([&log]) {
        assert!(!text.contains("TOPSECRET") && !text.contains("VE9QU0VDUkVU"), "{text}");
    }
}
