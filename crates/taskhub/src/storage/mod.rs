//! Azure Storage, typed: what a task hub needs of queues, tables and blobs.
//!
//! Owns connections, credentials, time-outs, retries and error kinds. It knows nothing of
//! hubs, instances or messages: names and keys arrive ready-made. No type of the Azure
//! crates is part of the interface, so that an official crate for tables can take the place
//! of ours later. Every call ends within [`Options::total_timeout`], and no response is read
//! beyond a bound.
//!
//! Retries repeat writes that may have been applied: after a broken connection an insert can
//! come back as [`StorageError::is_already_exists`] for the caller's own row, and a message
//! can be in its queue twice. Callers handle both.

mod account;
mod blob;
mod credential;
mod error;
mod pipeline;
mod queue;
mod table;
mod token;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use account::{Account, AccountError, ConnectionStringError, EndpointOverrides, PUBLIC_SUFFIX};
pub use blob::{BlobEntry, Container};
pub use error::{StorageError, StorageErrorKind};
pub use queue::{Queue, QueueMessage, SentMessage};
pub use table::{Condition, Continuation, ETag, Entity, Operation, Page, Query, Table, Value, quote};
pub use token::{AccessToken, TokenError, TokenErrorKind, TokenFuture, TokenProvider};

/// One of the three services of a storage account that a hub lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Blobs.
    Blob,
    /// Queues.
    Queue,
    /// Tables.
    Table,
}

impl Service {
    /// The name as it is part of host names and metrics: `blob`, `queue`, `table`.
    pub fn as_str(self) -> &'static str {
        match self {
            Service::Blob => "blob",
            Service::Queue => "queue",
            Service::Table => "table",
        }
    }
}

/// Limits of every call, and who is told of requests.
#[derive(Clone)]
pub struct Options {
    /// The longest that one HTTP exchange may take, connection and body included.
    pub attempt_timeout: Duration,
    /// The longest that one call may take, all tries and the waits between them included; of a list, each page.
    pub total_timeout: Duration,
    /// How often a failed try is repeated: after 408, 429, 5xx and broken connections; never after another 4xx.
    pub max_retries: u32,
    /// Told of each try.
    pub observer: Option<Arc<dyn RequestObserver>>,
    /// Asked before each try; nobody is if none.
    pub admission: Option<Arc<dyn Admission>>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            attempt_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(15),
            max_retries: 3,
            observer: None,
            admission: None,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("attempt_timeout", &self.attempt_timeout)
            .field("total_timeout", &self.total_timeout)
            .field("max_retries", &self.max_retries)
            .field("observer", &self.observer.is_some())
            .field("admission", &self.admission.is_some())
            .finish()
    }
}

/// Is told of each HTTP request to storage, for metrics and for tests that count.
pub trait RequestObserver: Send + Sync + 'static {
    /// Called once per try, after its response was read or it failed; must not block.
    fn observe(&self, request: &ObservedRequest);
}

/// Decides when a request may be sent: a budget that several clients share, or a pause that a busy account asked for.
pub trait Admission: Send + Sync + 'static {
    /// Called before each try, the repeated ones too, and waits until it may go. The wait counts into [`Options::total_timeout`]:
    /// when that ends, the future is dropped.
    ///
    /// # Errors
    /// [`NotAdmitted`] if the wait would be too long. The call fails with [`StorageErrorKind::Throttled`] and without an HTTP status.
    fn admit(&self) -> Pin<Box<dyn Future<Output = Result<(), NotAdmitted>> + Send + '_>>;

    /// Called exactly once for each try that was admitted, also if it was dropped on its way; must not block.
    fn answered(&self, answer: Answered);
}

/// How a try that was admitted went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// The HTTP status; `None` if no complete response came.
    pub status: Option<u16>,
    /// How long the service asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// A request that was held back for so long that it was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("held back before it was sent: too many requests wait for this task hub, or its storage account asked for a pause")]
pub struct NotAdmitted;

/// One HTTP request, as it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedRequest {
    /// The service it went to.
    pub service: Service,
    /// What was asked; stable, such as `table.insert` or `queue.put`.
    pub operation: &'static str,
    /// The HTTP status; `None` if no complete response came.
    pub status: Option<u16>,
    /// From the first byte sent, or the wait for a connection, to the last byte read.
    pub elapsed: Duration,
}

/// A storage account, ready for calls. Clones share one pool of connections.
#[derive(Clone, Debug)]
pub struct Storage {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    account: Account,
    options: Options,
    http: reqwest::Client,
    tables: Arc<table::TableService>,
    queues: Arc<queue::QueueService>,
    blobs: Arc<blob::BlobService>,
}

impl Storage {
    /// Builds the clients; contacts nothing.
    ///
    /// # Errors
    /// [`StorageErrorKind::InvalidInput`] if an endpoint needs TLS and the process has no default TLS provider:
    /// the application installs `ring` at the start of `main`.
    pub fn new(account: Account, options: Options) -> Result<Storage, StorageError> {
        let http = pipeline::http_client(&account)?;
        Storage::over(account, options, http)
    }

    /// The same account, with requests that `admission` admits. Both share one pool of connections.
    ///
    /// # Errors
    /// Those of [`Storage::new`].
    pub fn with_admission(&self, admission: Option<Arc<dyn Admission>>) -> Result<Storage, StorageError> {
        let options = Options { admission, ..self.inner.options.clone() };
        Storage::over(self.inner.account.clone(), options, self.inner.http.clone())
    }

    fn over(account: Account, options: Options, http: reqwest::Client) -> Result<Storage, StorageError> {
        let caller = |service| pipeline::Caller::new(&account, service, &options, http.clone());
        let inner = Inner {
            tables: Arc::new(table::TableService::new(caller(Service::Table))),
            queues: Arc::new(queue::QueueService::new(caller(Service::Queue))?),
            blobs: Arc::new(blob::BlobService::new(caller(Service::Blob))?),
            account,
            options,
            http,
        };
        Ok(Storage { inner: Arc::new(inner) })
    }

    /// The account that this was built from.
    pub fn account(&self) -> &Account {
        &self.inner.account
    }

    /// The table of this name, which need not exist.
    pub fn table(&self, name: &str) -> Table {
        self.inner.tables.table(name)
    }

    /// The queue of this name, which need not exist.
    pub fn queue(&self, name: &str) -> Queue {
        self.inner.queues.queue(name)
    }

    /// The blob container of this name, which need not exist.
    pub fn container(&self, name: &str) -> Container {
        self.inner.blobs.container(name)
    }

    /// The names of all queues that begin with `prefix`, in the service's order.
    ///
    /// # Errors
    /// Those of any call; [`StorageErrorKind::TooLarge`] beyond 100,000 queues.
    pub async fn list_queues(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.inner.queues.list(prefix).await
    }
}
