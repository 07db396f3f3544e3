//! Kubernetes operator for Durable Functions: orchestrations as Kubernetes objects.
//!
//! # Bird's eye view
//!
//! ```text
//!     kubectl, GitOps, Helm                  any Durable Functions worker
//!              |                                          |
//!      kube-apiserver                            Azure Storage account
//!              |                               queues   tables   blobs
//!     +--------+---------------- operator ----------------+---------+
//!     |  controllers: resolve -> observe -> decide -> act -> report |
//!     |       ^                                |                    |
//!     |       |                                v                    |
//!     |    poller  <----  hubs  ------>  durable-taskhub            |
//!     |    lease (who leads)      admin (/livez, /readyz, /metrics) |
//!     +-------------------------------------------------------------+
//! ```
//!
//! An `Orchestration` is an object; an *instance* is a run in the task hub. Data go one way at a time: from the object
//! through `decide` to the task hub, from the hub's row through the poller and `decide` to the status.
//!
//! # Codemap
//!
//! | Module | What it owns |
//! |---|---|
//! | [`api`] | the Kubernetes types, their names and conditions, and how objects are read |
//! | [`controllers`] | one folder per kind; the runner that closes kube's traps; status writes; Events |
//! | [`poller`] | follows unfinished instances, by scans or one by one, and tells whose owner should decide again |
//! | [`hubs`] | the clients and the budget of each TaskHub, who waits for which hub, watches of single Secrets |
//! | [`connection`] | from a TaskHub and its Secret or identity to a storage account, or why not |
//! | [`workload_identity`] | tokens for storage accounts from the service accounts of tenants |
//! | [`operator`] | the composition root: the only module that knows all others |
//! | [`lease`] | which of several operators works: a claim with an expiry |
//! | [`admin`], [`metrics`], [`telemetry`], [`traces`], [`shutdown`], [`config`] | what surrounds every service |
//! | [`changes`], [`crash_points`] | a set of notices for one consumer; where tests make the operator die |
//! | [`refusal`] | what an error of the API server means to the person who runs the operator |
//!
//! The client of task hubs is a library of its own, `durable-taskhub` in `crates/taskhub`, which knows no Kubernetes. The
//! sample worker in `crates/worker` is for demos and tests. `tests/bed` brings up real servers for both.
//!
//! A reconcile of an Orchestration reads as five steps in `controllers/orchestration/mod.rs`: *resolve* and *observe* cost no
//! request; *decide* is pure; *act* alone writes to the hub; *report* alone writes to the API server. A control action is recorded
//! in the status (acknowledged), sent, and recorded as sent; its effect in the row, and for an end in the history, ends the record.
//! A deletion that has to reach the hub is taken step by step (`teardown` decides, `deletion` acts) behind a finalizer.
//!
//! # Invariants
//!
//! - Nothing is sent to a queue that was not first justified by a row (`durable_taskhub::start` keeps it by its types) or
//!   recorded in a status (`controllers/orchestration/act/control.rs`, `controllers/orchestration_event/act.rs`).
//! - One control message per instance is under way; nothing holds an object that is deleted for longer than five minutes.
//! - Whatever is decided is computed from namespace, name and UID: a repeat after any crash sends the same start again,
//!   which the engine swallows. Two operators at once are only wasteful, never wrong: the lease is an economy, not the safety.
//! - A row that is already there is never overwritten; nothing is concluded from a hub that cannot be asked.
//! - A status is written whole, over the copy that was decided upon and no newer one, and only if it says something new.
//! - No panic, no deep nesting and no unreadable field of one object reaches another.
//! - What decides does no IO and reads no clock. Who may import whom is a test (`tests/wire/layering.rs`).
//! - No secret is printed: types redact, errors repeat no input.
//! - Every call that leaves the process has a time-out, a bound on what comes back, and a metric.

pub mod admin;
pub mod api;
pub mod changes;
pub mod config;
pub mod connection;
pub mod controllers;
pub mod crash_points;
pub mod hubs;
pub mod lease;
pub mod metrics;
pub mod operator;
pub mod poller;
pub mod refusal;
pub mod shutdown;
pub mod telemetry;
pub mod traces;
pub mod workload_identity;
