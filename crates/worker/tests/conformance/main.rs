//! The worker as a process on the storage emulator, against recordings of the released engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod comparison;
mod experiments;
mod interrupted;
mod player;
mod recorded;
mod robust;
mod scenarios;
mod support;
mod times;
