//! Real API server, real storage emulator, the operator and the worker as processes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod first_run;
mod orchestration;
mod schema;
mod support;
mod task_hub;
mod views;
