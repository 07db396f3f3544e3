//! The storage layer against a real storage emulator, and against servers that fail on purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod blobs;
mod credentials;
mod emulator;
mod faults;
mod queues;
mod tables;
