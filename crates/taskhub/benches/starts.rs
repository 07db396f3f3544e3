//! What a start costs: by our two writes, by the official clients' sequence, and as bare HTTP requests of the same bytes.
//!
//! `cargo bench -p durable-taskhub --bench starts`. Each part is a process of its own (so that its CPU time and memory are its own)
//! with an emulator of its own, which has no more than one part's messages. Reported, not asserted: the emulator is what takes
//! the time, so wall times compare only within one run.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use durable_bed::assets;
use durable_bed::azurite::Azurite;
use durable_taskhub::artifacts::EngineLine;
use durable_taskhub::event::ExecutionStarted;
use durable_taskhub::message::Message;
use durable_taskhub::names::{HubName, InstanceId, escape_key};
use durable_taskhub::partition::{PartitionCount, partition_of};
use durable_taskhub::start::StartRequest;
use durable_taskhub::storage::{Account, Condition, Entity, Options, Service, Storage};
use durable_taskhub::{TaskHub, Time};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const STARTS: usize = 2000;
const IN_FLIGHT: usize = 64;
const INPUT: &str = "{\"order\":4711,\"items\":[\"apple\",\"pear\"]}";
/// The kernel's unit of CPU times in `/proc`, the same on all of Linux's present architectures.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match std::env::var("BENCH_PART") {
        Ok(part) => runtime.block_on(measure(&part)),
        Err(_) => runtime.block_on(compare()),
    }
}

/// All parts, one after another.
async fn compare() {
    let (cores, memory) = (std::thread::available_parallelism().unwrap(), memory_of_machine());
    println!("{STARTS} starts, {IN_FLIGHT} in flight; {cores} cores, {memory:.0} GiB, shared with the emulator");
    println!("{:<44} {:>9} {:>9} {:>13} {:>9}", "", "requests", "wall", "CPU per start", "RSS");
    let parts = [
        ("ours", "ours: row, message"),
        ("official", "official sequence: read, message, row"),
        ("bare", "bare HTTP: the bytes of ours, signed before"),
    ];
    for (part, title) in parts {
        let azurite = Azurite::start(&assets::ensure().unwrap()).unwrap();
        create_hub(&azurite).await;
        let bare = if part == "bare" { Some(record().await) } else { None };
        let folder = durable_bed::folder::new("starts").unwrap();
        let file = folder.join("requests");
        if let Some(requests) = bare {
            std::fs::write(&file, serde_json::to_vec(&requests).unwrap()).unwrap();
        }
        let child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .env("BENCH_PART", part)
            .env("STORAGE", azurite.connection_string())
            .env("REQUESTS", &file)
            .output()
            .await
            .unwrap();
        assert!(child.status.success(), "{part}: {}", String::from_utf8_lossy(&child.stderr));
        println!("{title:<44} {}", String::from_utf8(child.stdout).unwrap().trim_end());
    }
}

fn storage(connection_string: &str) -> Storage {
    Storage::new(Account::from_connection_string(connection_string).unwrap(), Options::default()).unwrap()
}

fn hub_name() -> HubName {
    HubName::new("Starts").unwrap()
}

async fn create_hub(azurite: &Azurite) {
    let storage = storage(&azurite.connection_string());
    TaskHub::create(storage, hub_name(), PartitionCount::DEFAULT, EngineLine::Line2).await.unwrap();
}

/// One part, in a process of its own. Prints its figures.
async fn measure(part: &str) {
    let connection_string = std::env::var("STORAGE").unwrap();
    let storage = storage(&connection_string);
    let hub = TaskHub::connect(storage.clone(), hub_name(), None).await.unwrap();
    let requests: Vec<Recorded> = match part {
        "bare" => serde_json::from_slice(&std::fs::read(std::env::var("REQUESTS").unwrap()).unwrap()).unwrap(),
        _ => Vec::new(),
    };
    let (begun, cpu) = (Instant::now(), cpu_time());
    let per_start = match part {
        "ours" => {
            in_flight((0..STARTS).map(|number| start(&hub, number))).await;
            2
        }
        "official" => {
            in_flight((0..STARTS).map(|number| start_as_official(&hub, number))).await;
            3
        }
        _ => {
            let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).tls_backend_preconfigured(no_tls()).build().unwrap();
            let endpoints = [Service::Table, Service::Queue].map(|service| origin(storage.account().endpoint(service)));
            in_flight(pairs(&requests).into_iter().map(|pair| replay(&client, &endpoints, pair))).await;
            2
        }
    };
    let (wall, cpu) = (begun.elapsed(), cpu_time() - cpu);
    let starts = u32::try_from(STARTS).unwrap();
    println!(
        "{:>9} {:>7.2} s {:>10.0} µs {:>5.1} MiB",
        per_start * STARTS,
        wall.as_secs_f64(),
        (cpu / starts).as_secs_f64() * 1e6,
        resident_memory()
    );
}

async fn in_flight(work: impl Iterator<Item = impl Future<Output = ()>>) {
    futures::stream::iter(work).buffer_unordered(IN_FLIGHT).collect::<Vec<()>>().await;
}

fn id(number: usize) -> String {
    format!("order-{number:06}")
}

async fn start(hub: &TaskHub, number: usize) {
    let instance_id = InstanceId::new(&id(number)).unwrap();
    hub.start(StartRequest { instance_id, input: Some(INPUT.to_owned()), ..StartRequest::new("HelloSequence") }).await.unwrap();
}

/// Looks whether the ID is free, sends the message, then writes the row over whatever is there.
async fn start_as_official(hub: &TaskHub, number: usize) {
    let id = id(number);
    assert!(hub.get_without_input(&id, &[]).await.unwrap().is_none());
    let (execution_id, created) = (uuid::Uuid::new_v4().simple().to_string(), Time::now());
    let started =
        ExecutionStarted { generation: Some(0), ..ExecutionStarted::new(&id, &execution_id, "HelloSequence", Some(INPUT.to_owned())) };
    let text = Message::start(started, created, i64::try_from(number).unwrap()).encode().unwrap();
    let queue = hub.name().control_queue(partition_of(&id, hub.partition_count()));
    hub.storage().queue(&queue).put(&text, Duration::ZERO).await.unwrap();
    let row = Entity::new(escape_key(&id), "")
        .with("Name", "HelloSequence")
        .with("Input", INPUT)
        .with("CreatedTime", created)
        .with("LastUpdatedTime", Time::now())
        .with("RuntimeStatus", "Pending")
        .with("TaskHubName", hub.name().as_str())
        .with("ExecutionId", execution_id.as_str())
        .with("Generation", 0)
        .with("Tags", "null");
    hub.storage().table(&hub.name().instances_table()).replace(&row, Condition::Upsert).await.unwrap();
}

/// A request as our client sent it, with its signature.
#[derive(serde::Serialize, serde::Deserialize)]
struct Recorded {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Recorded {
    fn is_of_table(&self) -> bool {
        self.path.contains("StartsInstances")
    }
}

/// What a client sent over one connection so far.
type Bytes = Arc<Mutex<Vec<u8>>>;

/// Runs our starts through a relay in front of an emulator that is thrown away, and keeps what they sent.
async fn record() -> Vec<Recorded> {
    let azurite = Azurite::start(&assets::ensure().unwrap()).unwrap();
    create_hub(&azurite).await;
    let direct = azurite.connection_string();
    let account = storage(&direct).account().clone();
    let sent: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let mut relayed = direct.clone();
    for service in [Service::Table, Service::Queue] {
        let target = origin(account.endpoint(service)).trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        relayed = relayed.replace(&target, &listener.local_addr().unwrap().to_string());
        let sent = sent.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let bytes = Bytes::default();
                sent.lock().unwrap().push(bytes.clone());
                tokio::spawn(relay(client, target.clone(), bytes));
            }
        });
    }
    let hub = TaskHub::connect(storage(&relayed), hub_name(), None).await.unwrap();
    in_flight((0..STARTS).map(|number| start(&hub, number))).await;
    let connections: Vec<_> = sent.lock().unwrap().iter().map(|bytes| bytes.lock().unwrap().clone()).collect();
    connections.iter().flat_map(|bytes| requests(bytes)).filter(|request| request.method == "POST").collect()
}

async fn relay(client: TcpStream, target: String, bytes: Bytes) {
    client.set_nodelay(true).unwrap();
    let server = TcpStream::connect(target).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { drop(tokio::io::copy(&mut from_server, &mut to_client).await) });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
        bytes.lock().unwrap().extend_from_slice(&buffer[..read]);
        to_server.write_all(&buffer[..read]).await.unwrap();
    }
}

/// The requests that went over one connection; all have a content length or no body.
fn requests(mut bytes: &[u8]) -> Vec<Recorded> {
    let mut requests = Vec::new();
    while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap().split(' ').map(str::to_owned);
        let (method, path) = (first.next().unwrap(), first.next().unwrap());
        let headers: Vec<(String, String)> =
            lines.map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())).unwrap()).collect();
        let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, length)| length.parse().unwrap());
        let body = String::from_utf8(bytes[end + 4..end + 4 + length].to_vec()).unwrap();
        requests.push(Recorded { method, path, headers, body });
        bytes = &bytes[end + 4 + length..];
    }
    requests
}

/// A row and a message each, in any order of their own.
fn pairs(requests: &[Recorded]) -> Vec<[&Recorded; 2]> {
    let (rows, messages): (Vec<_>, Vec<_>) = requests.iter().partition(|request| request.is_of_table());
    assert_eq!((rows.len(), messages.len()), (STARTS, STARTS));
    rows.into_iter().zip(messages).map(|(row, message)| [row, message]).collect()
}

async fn replay(client: &reqwest::Client, endpoints: &[String; 2], pair: [&Recorded; 2]) {
    for (request, endpoint) in pair.into_iter().zip(endpoints) {
        let mut builder = client.post(format!("{endpoint}{}", request.path)).body(request.body.clone());
        for (name, value) in request.headers.iter().filter(|(name, _)| !["host", "content-length"].contains(&name.as_str())) {
            builder = builder.header(name, value);
        }
        let answer = builder.send().await.unwrap();
        assert!(answer.status().is_success(), "{}: {}", request.path, answer.status());
        answer.bytes().await.unwrap();
    }
}

/// `http://host:port` of an endpoint.
fn origin(endpoint: &str) -> String {
    endpoint.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
}

/// The emulator has no TLS; without a provider the HTTP client would refuse to be built.
fn no_tls() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name in parentheses may hold blanks; the fields after it are counted from the third.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    Duration::from_secs_f64(ticks / TICKS_PER_SECOND)
}

/// In MiB.
fn resident_memory() -> f64 {
    kibibytes("/proc/self/status", "VmRSS:") / 1024.0
}

/// In GiB.
fn memory_of_machine() -> f64 {
    kibibytes("/proc/meminfo", "MemTotal:") / 1024.0 / 1024.0
}

fn kibibytes(file: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
