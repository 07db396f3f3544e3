//! A proxy between a client and a storage emulator: counts at the wire, and breaks what it is told to break.
//!
//! It passes requests and answers on byte for byte as far as HTTP has them:
//! signatures cover headers and paths. It runs on a thread of its own.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::azurite::{ACCOUNT, ACCOUNT_KEY};
use crate::{BedError, during};

/// Where the three services of an emulator listen.
#[derive(Debug, Clone, Copy)]
pub struct StorageAddresses {
    /// The blob service.
    pub blob: SocketAddr,
    /// The queue service.
    pub queue: SocketAddr,
    /// The table service.
    pub table: SocketAddr,
}

impl StorageAddresses {
    /// The connection string of the emulator's account at these addresses.
    pub fn connection_string(&self) -> String {
        let StorageAddresses { blob, queue, table } = self;
        format!(
            "DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint=http://{blob}/{ACCOUNT};\
             QueueEndpoint=http://{queue}/{ACCOUNT};TableEndpoint=http://{table}/{ACCOUNT};"
        )
    }
}

/// A service of a storage account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Blobs.
    Blob,
    /// Queues.
    Queue,
    /// Tables.
    Table,
}

/// One request as it passed.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The service that it went to.
    pub service: Service,
    /// Its method.
    pub method: String,
    /// Its path, encoded.
    pub path: String,
    /// Its query, encoded; empty if it had none.
    pub query: String,
    /// Its body.
    pub body: Bytes,
    /// The status of the answer; none if the connection was cut.
    pub status: Option<u16>,
}

impl Recorded {
    /// True for what changes something.
    pub fn is_write(&self) -> bool {
        !matches!(self.method.as_str(), "GET" | "HEAD")
    }
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It passes.
    Pass,
    /// It is answered with this status and storage error code, and not passed on.
    Answer(u16, &'static str),
    /// It passes after this time.
    Delay(Duration),
    /// The connection is cut before it is passed on.
    CutBefore,
    /// It is passed on, and the connection is cut before the answer.
    CutAfter,
    /// It is passed on, and answered with this status and storage error code all the same.
    AnswerAfter(u16, &'static str),
}

type Rule = Box<dyn FnMut(&Recorded) -> Fault + Send>;

struct Shared {
    requests: Mutex<Vec<Recorded>>,
    rule: Mutex<Rule>,
}

/// The running proxy, one listener per service. It ends when it is dropped.
pub struct StorageProxy {
    addresses: StorageAddresses,
    shared: Arc<Shared>,
    _stop: oneshot::Sender<Infallible>,
}

impl StorageProxy {
    /// Starts a proxy in front of `target`.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(target: StorageAddresses) -> Result<StorageProxy, BedError> {
        let shared = Arc::new(Shared { requests: Mutex::default(), rule: Mutex::new(Box::new(|_| Fault::Pass)) });
        let (stop, stopped) = oneshot::channel();
        let (started, starts) = std::sync::mpsc::channel();
        let of_thread = shared.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(serve(target, of_thread, started, stopped)),
                Err(error) => drop(started.send(Err(error))),
            }
        });
        let addresses = during("starting a proxy", starts.recv())?;
        Ok(StorageProxy { addresses: during("starting a proxy", addresses)?, shared, _stop: stop })
    }

    /// The connection string that leads through the proxy.
    pub fn connection_string(&self) -> String {
        self.addresses.connection_string()
    }

    /// What has passed since the start or the last [`StorageProxy::clear`].
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what has passed.
    pub fn clear(&self) {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Decides about each request from now on.
    pub fn rule(&self, rule: impl FnMut(&Recorded) -> Fault + Send + 'static) {
        *self.shared.rule.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(rule);
    }
}

async fn serve(
    target: StorageAddresses,
    shared: Arc<Shared>,
    started: std::sync::mpsc::Sender<std::io::Result<StorageAddresses>>,
    stopped: oneshot::Receiver<Infallible>,
) {
    let listen = async |service, target| -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(accept(listener, service, target, shared.clone()));
        Ok(address)
    };
    let addresses = async {
        Ok(StorageAddresses {
            blob: listen(Service::Blob, target.blob).await?,
            queue: listen(Service::Queue, target.queue).await?,
            table: listen(Service::Table, target.table).await?,
        })
    };
    let _ = started.send(addresses.await);
    // An error means that the proxy was dropped.
    let _ = stopped.await;
}

async fn accept(listener: TcpListener, service: Service, target: SocketAddr, shared: Arc<Shared>) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    while let Ok((stream, _)) = listener.accept().await {
        let (client, shared) = (client.clone(), shared.clone());
        let answer = service_fn(move |request| pass(request, service, target, client.clone(), shared.clone()));
        // A cut connection is an error here, and what was asked for.
        tokio::spawn(async move { drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await) });
    }
}

async fn pass(
    request: Request<Incoming>,
    service: Service,
    target: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, BedError> {
    let (mut head, body) = request.into_parts();
    let body = during("request body", body.collect().await)?.to_bytes();
    let mut recorded = Recorded {
        service,
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        body: body.clone(),
        status: None,
    };
    let fault = (shared.rule.lock().unwrap_or_else(PoisonError::into_inner))(&recorded);
    let keep = |recorded: Recorded| shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(recorded);
    match &fault {
        Fault::Pass | Fault::CutAfter | Fault::AnswerAfter(..) => {}
        Fault::Delay(delay) => tokio::time::sleep(*delay).await,
        Fault::CutBefore => {
            keep(recorded);
            return Err(BedError::new("cut"));
        }
        Fault::Answer(status, code) => {
            recorded.status = Some(*status);
            keep(recorded);
            return made_up(*status, code);
        }
    }
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = during("address", format!("http://{target}{path}").parse::<Uri>())?;
    let response = match client.request(Request::from_parts(head, Full::new(body))).await {
        Ok(response) => response,
        Err(error) => {
            keep(recorded);
            return Err(BedError::new(error.to_string()));
        }
    };
    let (head, body) = response.into_parts();
    let body = during("answer's body", body.collect().await)?.to_bytes();
    if matches!(fault, Fault::CutAfter) {
        keep(recorded);
        return Err(BedError::new("cut"));
    }
    if let Fault::AnswerAfter(status, code) = &fault {
        recorded.status = Some(*status);
        keep(recorded);
        return made_up(*status, code);
    }
    recorded.status = Some(head.status.as_u16());
    keep(recorded);
    let _: StatusCode = head.status;
    Ok(Response::from_parts(head, Full::new(body)))
}

fn made_up(status: u16, code: &str) -> Result<Response<Full<Bytes>>, BedError> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>made by a test</Message></Error>");
    let answer = Response::builder().status(status).header("x-ms-error-code", code).header("content-type", "application/xml");
    during("answer", answer.body(Full::from(body)))
}
