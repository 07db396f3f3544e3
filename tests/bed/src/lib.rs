//! Real parts for tests and the demo.

pub mod recording;
