//! The client's operations against the worker as a process: product.md 3.4, rule by rule.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod control;
mod rewind;
mod rewind_killed;
mod served;
mod start;
#[path = "../conformance/support.rs"]
#[allow(dead_code, reason = "the other test target uses the rest")]
mod support;
mod table;
mod tree;
mod values;
