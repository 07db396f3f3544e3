//! The client's operations on a real storage emulator, with requests counted at the wire.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod changes;
mod column;
mod end;
mod entity;
mod history;
mod hubs;
mod list;
mod purge;
mod purge_killed;
mod rewind;
mod support;
mod tree;
mod wait;
