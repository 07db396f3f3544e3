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
//! [`replay`] of the orchestrator's code, [`checkpoint`] out), [`activity`]
//! works on the work-item queue.

pub mod activity;
pub mod batch;
pub mod checkpoint;
pub mod control;
pub mod create;
pub mod history;
pub mod hub;
pub mod lease;
pub mod poll;
pub mod replay;
pub mod samples;
pub mod session;
pub mod start_filter;
pub mod worker;

pub use worker::{Worker, WorkerError};
