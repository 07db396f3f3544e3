//! The sample worker: runs orchestrations of a task hub on Azure Storage.
//!
//! It exists for the demo and the tests of the operator. It leaves in storage
//! what the Durable Functions extension leaves, as recorded from the real
//! engine, so that the client is tried against the true protocol without .NET.
//! **Not for production**: it knows only the functions of [`samples`], and must
//! not share a hub with a real worker at the same time.
//!
//! The layers: [`lease`] decides which partitions are served, [`control`] reads
//! their queues, [`session`] runs one episode of one instance ([`history`] in,
//! [`admission`] of its messages, [`replay`] of the orchestrator's code, [`plan`]
//! of what follows, [`checkpoint`] out), [`activity`] works on the work-item
//! queue. [`large`] keeps what fits neither a queue nor a column.
//!
//! # Order of writes, and what a crash leaves (task-hub.md 5.6)
//!
//! Blobs, messages, history, Instances row, blobs of a replaced execution,
//! triggering messages. The triggering messages are deleted last, so whatever
//! did not happen is done when they come back:
//!
//! | crash after | left | then |
//! |---|---|---|
//! | a blob | a blob without reference | written again under another name; a purge removes both |
//! | some messages | answers may come before their question is in the history | they are put back until it is; a repeated work item runs twice, its first answer counts; a repeated child start has the same execution ID and runs once |
//! | the history | a row that lags behind | the triggering message repairs it: a finished instance's row, and that of a first episode, as a whole; otherwise the next episode's end overtakes it |
//! | the row | triggering messages | a repeated answer changes nothing, an external event comes twice, as in the engine |
//! | the row, on continue-as-new | blobs of the old execution | a purge removes them |

pub mod activity;
pub mod admission;
pub mod batch;
pub mod checkpoint;
pub mod context;
pub mod control;
pub mod create;
pub mod history;
pub mod hub;
pub mod instance_row;
pub mod large;
pub mod lease;
pub mod plan;
pub mod poll;
pub mod replay;
pub mod samples;
pub mod session;
pub mod start_filter;
pub mod uri;
pub mod worker;

pub use worker::{Worker, WorkerError};
