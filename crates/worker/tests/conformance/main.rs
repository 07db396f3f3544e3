//! The worker as a process on the storage emulator, against recordings of the released engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod recorded;
mod robust;
mod support;
mod times;
