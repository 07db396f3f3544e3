//! Real API server, real storage emulator, the operator and the worker as processes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod crash;
mod crash_control;
mod fault;
mod first_run;
mod idle;
mod leaders;
mod orchestration;
mod orchestration_event;
mod poller;
mod process;
mod runner;
mod schema;
mod support;
mod task_hub;
mod views;
mod wire;
