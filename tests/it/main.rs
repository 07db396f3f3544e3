//! Real API server, real storage emulator, the operator and the worker as processes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod charts;
mod crash;
mod crash_control;
mod first_run;
mod gitops;
mod idle;
mod leaders;
mod orchestration;
mod orchestration_event;
mod poller;
mod process;
mod runner;
mod schema;
#[allow(dead_code, unused_imports, reason = "the fault run and the benches use the rest")]
mod support;
mod task_hub;
mod traces;
mod views;
mod wire;
