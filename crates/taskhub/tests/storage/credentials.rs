use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use azure_core::credentials::Secret;
use azure_core::hmac::hmac_sha256;
use durable_taskhub::storage::{
    AccessToken, Account, EndpointOverrides, Entity, Options, PUBLIC_SUFFIX, Query, Service, Storage, StorageErrorKind, TokenError,
    TokenErrorKind, TokenFuture, TokenProvider,
};

use crate::emulator::{Recorder, account, connection_string, unique};

const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

fn endpoints() -> String {
    let account = account();
    let endpoint = |service| account.endpoint(service).to_owned();
    format!(
        "BlobEndpoint={};QueueEndpoint={};TableEndpoint={}",
        endpoint(Service::Blob),
        endpoint(Service::Queue),
        endpoint(Service::Table)
    )
}

/// An account SAS, signed as the services document it.
fn sas(permissions: &str, expiry: &str) -> String {
    let (services, resources, version) = ("bqt", "sco", "2019-07-07");
    let name = account().name().to_owned();
    let text = format!("{name}\n{permissions}\n{services}\n{resources}\n\n{expiry}\n\nhttps,http\n{version}\n");
    let signature = hmac_sha256(&text, &Secret::new(KEY)).unwrap();
    let encode = |text: &str| text.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D").replace(':', "%3A");
    format!("sv={version}&ss={services}&srt={resources}&sp={permissions}&se={}&spr=https,http&sig={}", encode(expiry), encode(&signature))
}

fn with_sas(sas: &str) -> Storage {
    let text = format!("{};SharedAccessSignature={sas}", endpoints());
    Storage::new(Account::from_connection_string(&text).unwrap(), Options::default()).unwrap()
}

async fn works(storage: &Storage) {
    let name = unique("sas");
    let (table, queue, container) = (storage.table(&name), storage.queue(&name), storage.container(&name));
    table.create_if_missing().await.unwrap();
    table.insert(&Entity::new("it's", "a b").with("A", 1)).await.unwrap();
    assert_eq!(table.get("it's", "a b", &["A"]).await.unwrap().unwrap().int32("A"), Some(1));
    let operation = durable_taskhub::storage::Operation::Insert(Entity::new("it's", "c"));
    assert_eq!(table.transaction(&[operation]).await.unwrap().len(), 1);
    assert_eq!(table.query(&Query { filter: Some("A eq 1".to_owned()), ..Query::default() }).await.unwrap().entities.len(), 1);
    queue.create_if_missing().await.unwrap();
    queue.put("x", Duration::from_secs(0)).await.unwrap();
    assert_eq!(queue.peek(1).await.unwrap().len(), 1);
    assert_eq!(storage.list_queues(&name).await.unwrap(), [name]);
    container.create_if_missing().await.unwrap();
    container.put("a/é x", vec![1], false).await.unwrap();
    assert_eq!(container.get("a/é x", 1).await.unwrap(), Some(vec![1]));
    assert_eq!(container.list("a/").await.unwrap().len(), 1);
    container.delete_container().await.unwrap();
    queue.delete_queue().await.unwrap();
    table.delete_table().await.unwrap();
}

#[tokio::test]
async fn a_sas_opens_all_three_services() {
    let storage = with_sas(&sas("rwdlacup", "2099-01-01T00:00:00Z"));
    assert_eq!(storage.account().name(), "devstoreaccount1");
    works(&storage).await;
}

#[tokio::test]
async fn a_key_opens_all_three_services() {
    works(&Storage::new(account(), Options::default()).unwrap()).await;
}

async fn refusals(storage: &Storage) -> [durable_taskhub::storage::StorageError; 3] {
    [
        storage.table("Anything").get("a", "b", &[]).await.unwrap_err(),
        storage.queue("anything").put("x", Duration::ZERO).await.unwrap_err(),
        storage.container("anything").get("x", 1).await.unwrap_err(),
    ]
}

#[tokio::test]
async fn a_wrong_key_and_an_expired_sas_are_authentication_errors_at_once() {
    let wrong = connection_string().replace(KEY, "d3Jvbmcga2V5IG9mIGEgdGVzdA==");
    assert_ne!(wrong, connection_string());
    let (recorder, options) = Recorder::options();
    let storage = Storage::new(Account::from_connection_string(&wrong).unwrap(), options).unwrap();
    for error in refusals(&storage).await {
        assert_eq!(error.kind(), StorageErrorKind::Authentication, "{error}");
        assert_eq!(error.status(), Some(403));
        assert!(error.to_string().contains("it has expired: renew it"), "{error}");
    }
    assert_eq!(recorder.take().len(), 3, "a 403 is not retried");
    for error in refusals(&with_sas(&sas("rwdlacup", "2020-01-01T00:00:00Z"))).await {
        assert_eq!(error.kind(), StorageErrorKind::Authentication, "{error}");
    }
}

#[tokio::test]
async fn a_sas_that_may_not_is_refused_access() {
    let storage = with_sas(&sas("l", "2099-01-01T00:00:00Z"));
    for error in refusals(&storage).await {
        assert_eq!(error.kind(), StorageErrorKind::AccessDenied, "{error}");
        assert!(error.is_authentication());
    }
}

#[tokio::test]
async fn each_operation_costs_one_request() {
    let (recorder, options) = Recorder::options();
    let storage = Storage::new(account(), options).unwrap();
    let name = unique("count");
    let (table, queue, container) = (storage.table(&name), storage.queue(&name), storage.container(&name));
    let expect = |operation: &'static str, status: u16| {
        let seen: Vec<_> = recorder.take().into_iter().map(|request| (request.service, request.operation, request.status)).collect();
        let service = operation.split('.').next().unwrap();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!((seen[0].0.as_str(), seen[0].1, seen[0].2), (service, operation, Some(status)));
    };
    table.create_if_missing().await.unwrap();
    expect("table.create_table", 204);
    table.insert(&Entity::new("p", "r")).await.unwrap();
    expect("table.insert", 204);
    table.insert(&Entity::new("p", "r")).await.unwrap_err();
    expect("table.insert", 409);
    table.get("p", "x", &[]).await.unwrap();
    expect("table.get", 404);
    table.query(&Query::default()).await.unwrap();
    expect("table.query", 200);
    queue.create_if_missing().await.unwrap();
    expect("queue.create_queue", 201);
    queue.put("x", Duration::ZERO).await.unwrap();
    expect("queue.put", 201);
    queue.peek(1).await.unwrap();
    expect("queue.peek", 200);
    container.create_if_missing().await.unwrap();
    expect("blob.create_container", 201);
    container.put("x", vec![1], false).await.unwrap();
    expect("blob.put", 201);
    container.get("x", 10).await.unwrap();
    expect("blob.get", 206);
    storage.list_queues(&name).await.unwrap();
    expect("queue.list_queues", 200);
}

/// Gives a token, or says why not; counts how often it was asked.
struct Tokens {
    answer: Result<&'static str, TokenErrorKind>,
    asked: AtomicU32,
}

impl TokenProvider for Tokens {
    fn token(&self) -> TokenFuture<'_> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = match self.answer {
            Ok(text) => Ok(AccessToken::new(text).unwrap()),
            Err(kind) => Err(TokenError::new(kind, "do this or that")),
        };
        Box::pin(async { answer })
    }
}

fn with_tokens(answer: Result<&'static str, TokenErrorKind>, endpoint: &str) -> (Storage, Arc<Tokens>) {
    let tokens = Arc::new(Tokens { answer, asked: AtomicU32::new(0) });
    let endpoint = Some(endpoint.to_owned());
    let overrides = EndpointOverrides { blob: endpoint.clone(), queue: endpoint.clone(), table: endpoint };
    let account = Account::from_token_provider("devstoreaccount1", tokens.clone(), PUBLIC_SUFFIX, &overrides).unwrap();
    (Storage::new(account, Options { max_retries: 2, ..Options::default() }).unwrap(), tokens)
}

#[tokio::test]
async fn without_a_token_nobody_is_asked_and_the_provider_says_what_to_do() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/devstoreaccount1", listener.local_addr().unwrap());
    for (kind, expected, asked) in [
        (TokenErrorKind::Refused, StorageErrorKind::Authentication, 1),
        (TokenErrorKind::Forbidden, StorageErrorKind::AccessDenied, 1),
        // It may pass: asked again, as after a broken connection.
        (TokenErrorKind::Unavailable, StorageErrorKind::Unreachable, 3),
    ] {
        let (storage, tokens) = with_tokens(Err(kind), &endpoint);
        let error = storage.table("Rows").get("p", "r", &[]).await.unwrap_err();
        assert_eq!(error.kind(), expected, "{error}");
        assert_eq!(error.to_string(), "read from Rows: do this or that");
        assert_eq!(tokens.asked.load(Ordering::Relaxed), asked, "{kind:?}");
        for error in [storage.queue("queue").peek(1).await.unwrap_err(), storage.container("container").get("x", 9).await.unwrap_err()] {
            assert_eq!(error.kind(), expected, "{error}");
            assert!(error.to_string().ends_with(": do this or that"), "{error}");
        }
    }
    let nobody = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(nobody.is_err(), "a request was sent without a credential");
}

#[tokio::test]
async fn a_token_is_sent_in_a_header_and_never_again_elsewhere() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/devstoreaccount1", listener.local_addr().unwrap());
    let (storage, _) = with_tokens(Ok("S3CRET.TOKEN"), &endpoint);
    let location = format!("{endpoint}/elsewhere");
    let server = tokio::spawn(async move {
        let mut heads = Vec::new();
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).await.unwrap();
            heads.push(String::from_utf8_lossy(&buffer[..count]).to_lowercase());
            let answer =
                format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        let more = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
        (heads, more.is_ok())
    });
    let errors = [
        storage.table("Rows").get("p", "r", &[]).await.unwrap_err(),
        storage.queue("queue").peek(1).await.unwrap_err(),
        storage.container("container").get("x", 9).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), StorageErrorKind::UnexpectedResponse, "{error}");
        assert!(!format!("{error} {error:?}").contains("S3CRET"), "{error:?}");
    }
    let (heads, redirected) = server.await.unwrap();
    assert!(!redirected, "a redirect was followed");
    for head in &heads {
        assert!(head.contains("authorization: bearer s3cret.token") && !head.contains("sharedkey"), "{head}");
    }
    // Tables take tokens from this version on.
    assert!(heads[0].contains("x-ms-version: 2020-12-06"), "{}", heads[0]);
}

/// The emulator takes tokens over TLS alone; so the refusal of a credential is told as for keys.
#[tokio::test]
async fn a_token_that_the_account_does_not_take_is_an_authentication_error() {
    let (storage, _) = with_tokens(Ok("a.b.c"), account().endpoint(Service::Table));
    let error = storage.table("Rows").get("p", "r", &[]).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Authentication, "{error}");
    assert!(error.to_string().contains("does not accept the key, SAS or token"), "{error}");
}
