//! Client for the task hubs of [Durable Functions](https://learn.microsoft.com/azure/azure-functions/durable/) on Azure Storage.
//!
//! A task hub is a set of tables, queues and blob containers in a storage account. This crate starts, controls, reads and removes
//! the orchestration instances in it, byte for byte as the official clients write them, for workers in any language. It talks to
//! the storage account alone: it needs no app, no HTTP endpoint of one, and no Kubernetes.
//!
//! # Quick start
//!
//! ```
//! use std::time::Duration;
//! use durable_taskhub::names::{HubName, InstanceId};
//! use durable_taskhub::start::{StartError, StartRequest};
//! use durable_taskhub::storage::{Account, Options, Storage};
//! use durable_taskhub::wait::WaitError;
//! use durable_taskhub::{RuntimeStatus, TaskHub};
//!
//! # use durable_taskhub::{artifacts::EngineLine, partition::PartitionCount};
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let connection_string = durable_bed::azurite::Azurite::of_process()?.connection_string();
//! # let new = Storage::new(Account::from_connection_string(&connection_string)?, Options::default())?;
//! # TaskHub::create(new, HubName::new("Orders")?, PartitionCount::DEFAULT, EngineLine::Line2).await?;
//! let storage = Storage::new(Account::from_connection_string(&connection_string)?, Options::default())?;
//! let hub = TaskHub::connect(storage, HubName::new("Orders")?, None).await?;
//!
//! let request = StartRequest {
//!     instance_id: InstanceId::new("order-4711")?,
//!     input: Some(r#"{"amount": 12.50}"#.to_owned()),
//!     ..StartRequest::new("ProcessOrder")
//! };
//! hub.start(request.clone()).await?;
//! let instance = hub.get("order-4711").await?.ok_or("it was just started")?;
//! assert_eq!(instance.runtime_status, RuntimeStatus::Pending);
//! assert_eq!(instance.input.as_ref().and_then(|input| input.inline()), Some(r#"{"amount": 12.50}"#));
//!
//! // An ID is never started twice by accident.
//! let other = StartRequest { execution_id: "another".to_owned(), ..request };
//! assert!(matches!(hub.start(other).await, Err(StartError::AlreadyExists)));
//!
//! // No worker runs here, so the end does not come.
//! match hub.wait_for("order-4711", Duration::from_millis(300)).await {
//!     Ok(instance) => println!("{}", instance.runtime_status),
//!     Err(WaitError::TimedOut(instance)) => println!("still {}", instance.runtime_status),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The folder `examples` has whole programs: `start_and_wait`, `control` and `list_and_purge`.
//!
//! # Safer than the official clients
//!
//! The engine was watched while it met what clients send. Where it drops, repeats or breaks, this client refuses with a typed error,
//! or sequences. Numbers are those of the project's experiments with the engine.
//!
//! | Seen | Here |
//! | --- | --- |
//! | Two .NET clients start one ID, both report success, one ran (4.7); a running ID is replaced, the old run is just gone (4.9) | the row is *inserted*: the second start is [`StartError::AlreadyExists`](start::StartError); only ended runs are replaced, if asked for |
//! | .NET sends the start message before the row: control messages of that window are lost (5.5, 5.6) | row first, then message; a start that was interrupted is repeated harmlessly (4.3 to 4.5) |
//! | Control messages to what has not started are dropped, or undone by the start (5.3 to 5.7d) | [`ControlError::NotStarted`](control::ControlError) |
//! | A terminate of a scheduled start does not stop it (5.1) | refused likewise; a purge cancels it (4.13) |
//! | A terminate without a row returns every five minutes and ends the next run of that ID (3.5, 5.17) | the row is read before and after; the message is withdrawn |
//! | An event without a sender stalls its instance (3.1) | always written in full |
//! | A terminated parent leaves its children running (5.20) | [`TaskHub::terminate_tree`], [`TaskHub::terminate_children`] |
//! | A reason that reads as a URI breaks .NET's status and list (5.18) | it gets a trailing blank |
//! | A half-done rewind blocks .NET for ever (7.2); some rewinds ruin the instance (7.10, 7.11) | rewinds are resumable; what cannot work is refused ([`rewind`]) |
//! | A purge of `o-1` deletes large values of `o-10` (8.1); purged while at work, instances come back (8.5); a filter without final statuses deletes running ones (8.6) | exact prefixes, history decides, such filters are refused ([`purge`]) |
//!
//! # Operations and their requests
//!
//! | Operation | Requests to storage |
//! | --- | --- |
//! | [`TaskHub::connect`] | 2 to 5, once |
//! | [`TaskHub::start`] | 2; large inputs one more per blob, a replaced run two more |
//! | [`TaskHub::get`], [`TaskHub::get_without_input`] | 1 |
//! | [`TaskHub::wait_for`] | at most 12, and one per 2 s |
//! | [`TaskHub::fetch`] of a large value | 1 |
//! | [`TaskHub::list`], [`TaskHub::counts`] | 1 per page |
//! | [`TaskHub::history`] | 2 for the first page, 1 per further page, 1 per large value |
//! | [`TaskHub::end_of`] | 1; failure details in a blob one more |
//! | [`TaskHub::raise_event`], [`TaskHub::raise_event_unstarted`], [`TaskHub::suspend`], [`TaskHub::resume`] | 2 |
//! | [`TaskHub::withdraw`], [`TaskHub::control_backlog`], [`TaskHub::set_column`] | 1 |
//! | [`TaskHub::terminate`] | 3 |
//! | [`TaskHub::terminate_tree`], [`TaskHub::terminate_children`] | 2 or more for an instance's history, and 3 unless it has ended |
//! | [`TaskHub::cancel_start`] | 4 |
//! | [`TaskHub::restart`] | 3; 5 with the same ID |
//! | [`TaskHub::purge`], [`TaskHub::purge_page`] | the formula in [`purge`] |
//! | [`TaskHub::rewind`] | see [`rewind`] |
//! | [`TaskHub::signal`], [`TaskHub::entity`], [`TaskHub::entities`] | 1; large states one more each |
//! | [`TaskHub::info`] | about 5, and 2 per partition |
//! | [`TaskHub::create`] | up to 15, and one or two per partition |
//!
//! ```
//! use durable_taskhub::list::{Filter, ListOptions};
//! use durable_taskhub::purge::PurgeRequest;
//! use durable_taskhub::RuntimeStatus;
//! # use durable_taskhub::{TaskHub, artifacts::EngineLine, names::HubName, partition::PartitionCount};
//! # use durable_taskhub::storage::{Account, Options, Storage};
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let connection_string = durable_bed::azurite::Azurite::of_process()?.connection_string();
//! # let new = Storage::new(Account::from_connection_string(&connection_string)?, Options::default())?;
//! # let hub = TaskHub::create(new, HubName::new("Lists")?, PartitionCount::DEFAULT, EngineLine::Line2).await?;
//! # hub.start(durable_taskhub::start::StartRequest::new("ProcessOrder")).await?;
//! // Page by page.
//! let filter = Filter { name: Some("ProcessOrder".to_owned()), ..Filter::default() };
//! let mut options = ListOptions { filter, page_size: 100, show_input: false, ..ListOptions::default() };
//! let mut found = 0;
//! loop {
//!     let page = hub.list(&options).await?;
//!     found += page.instances.len();
//!     options.continuation = page.continuation;
//!     if options.continuation.is_none() {
//!         break;
//!     }
//! }
//! assert_eq!(found, 1);
//!
//! // What a purge of the completed ones would remove.
//! let completed = Filter { statuses: vec![RuntimeStatus::Completed], ..Filter::default() };
//! let page = hub.purge_page(&PurgeRequest { dry_run: true, ..PurgeRequest::new(completed) }).await?;
//! assert!(page.found.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # Both engine lines
//!
//! Engine 2.x (extension 3.x) keeps leases in a table, engine 1.x (extension 2.x) in blobs. Partition count and leases are found in
//! either; starts and control messages are understood by both. [`TaskHub::create`] makes a hub of the line that is asked for, and
//! [`TaskHub::delete`] removes the artifacts of both. A hub that does not exist is [`ConnectError::HubNotFound`], never created by
//! accident; a separate tracking store is refused ([`ConnectError::SeparateTrackingStore`]).
//!
//! # Limits
//!
//! - Instance IDs: see [`names::InstanceId`]. IDs that engines made are read whatever they are.
//! - Inputs: JSON text of at most 32 MiB, stored as it is given: numbers, order and whitespace stay. A message over 45 KiB
//!   ([`message::MAX_INLINE_BYTES`]) and a column over 30 Ki UTF-16 units go through blobs.
//! - Scheduled starts: at most seven days ahead, which is the queue service's limit.
//! - Lists: 1 to 1,000 instances per page. Purges and terminated trees: 10,000 instances per tree, 200,000 history rows per call.
//!
//! # Errors, time-outs, retries
//!
//! Each operation has an error of its own that says what was refused and why; [`storage::StorageError`] says which call failed, its
//! HTTP status and the service's code, and never a secret. Every call ends within [`Options::total_timeout`] (15 s) and each try
//! within [`Options::attempt_timeout`] (10 s); 408, 429, 5xx and broken connections are tried again, [`Options::max_retries`] times (3).
//! After a lost answer a write may have been applied: a start is safe to repeat with the same request, an event would be delivered
//! twice. [`Options::observer`] is told of each try, for metrics:
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU32, Ordering};
//! use durable_taskhub::storage::{ObservedRequest, Options, RequestObserver};
//! # use durable_taskhub::{TaskHub, artifacts::EngineLine, names::HubName, partition::PartitionCount};
//! # use durable_taskhub::storage::{Account, Storage};
//!
//! #[derive(Default)]
//! struct Requests(AtomicU32);
//!
//! impl RequestObserver for Requests {
//!     fn observe(&self, _: &ObservedRequest) {
//!         self.0.fetch_add(1, Ordering::Relaxed);
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let account = Account::from_connection_string(&durable_bed::azurite::Azurite::of_process()?.connection_string())?;
//! let requests = Arc::new(Requests::default());
//! let options = Options { observer: Some(requests.clone()), ..Options::default() };
//! # let hub = TaskHub::create(Storage::new(account, options)?, HubName::new("Seen")?, PartitionCount::DEFAULT, EngineLine::Line2).await?;
//! # requests.0.store(0, Ordering::Relaxed);
//! hub.start(durable_taskhub::start::StartRequest::new("ProcessOrder")).await?;
//! assert_eq!(requests.0.load(Ordering::Relaxed), 2);
//! # Ok(())
//! # }
//! ```
//!
//! [`Options::admission`] is asked before each try, so that several clients can share one budget of requests and hold back together
//! when the account asks for it; [`TaskHub::with_admission`] gives a second client of the same hub another one.
//!
//! # Following many instances
//!
//! [`TaskHub::changes`] finds the instances whose rows were written since a time of the service's clock: one request for up to 1,000
//! instances, however many there are. It cannot show a deletion.
//!
//! # TLS
//!
//! The crate uses rustls and chooses no provider for the process: for `https` endpoints call
//! `rustls::crypto::ring::default_provider().install_default()` at the start of `main`; [`storage::Storage::new`] says so if it is missing.
//!
//! # What a start costs
//!
//! `cargo bench -p durable-taskhub --bench starts`: 2,000 starts, 64 in flight, in one run on a machine of 2 cores and 24 GiB that
//! also ran the emulator (Azurite) and other builds. A single run: the wall time is the emulator's most of all.
//!
//! | | Requests | Wall | CPU per start | Memory at the end |
//! | --- | --- | --- | --- | --- |
//! | ours: row, message | 4,000 | 5.79 s | 560 µs | 13.2 MiB |
//! | the official clients' sequence, in the same code: read, message, row | 6,000 | 8.91 s | 750 µs | 12.1 MiB |
//! | bare HTTP requests of our bytes, signed before | 4,000 | 4.39 s | 285 µs | 21.8 MiB, the recorded requests included |
//!
//! # What it does not do
//!
//! It runs no orchestrations: that is the worker's part. It knows the Azure Storage backend alone (not Netherite, MSSQL or the
//! scheduler service), gets no tokens of Microsoft Entra ID itself (a [`storage::TokenProvider`] does), and does not serve hubs with a
//! separate tracking store.
//!
//! [`Options::total_timeout`]: storage::Options::total_timeout
//! [`Options::attempt_timeout`]: storage::Options::attempt_timeout
//! [`Options::max_retries`]: storage::Options::max_retries
//! [`Options::observer`]: storage::Options::observer
//! [`Options::admission`]: storage::Options::admission

pub mod artifacts;
pub mod changes;
pub mod column;
pub mod control;
pub mod counts;
pub mod end;
pub mod entity;
pub mod event;
pub mod history;
mod hub;
pub mod info;
#[doc(hidden)]
pub mod inspection;
mod instance;
pub mod list;
pub mod message;
pub mod names;
mod outgoing;
pub mod partition;
pub mod payload;
pub mod purge;
mod query;
mod raise_event;
pub mod restart;
pub mod rewind;
pub mod start;
pub mod storage;
mod suspend;
pub mod terminate;
mod time;
pub mod trace;
pub mod wait;

pub use hub::{ConnectError, Partition, TaskHub};
pub use instance::{Instance, RuntimeStatus};
pub use time::{Time, TimeError};
