use std::time::Duration;

use azure_core::credentials::Secret;
use azure_core::hmac::hmac_sha256;
use durable_taskhub::storage::{Account, Entity, Options, Query, Service, Storage, StorageErrorKind};

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
        assert!(error.to_string().contains("renew the connection string"), "{error}");
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
