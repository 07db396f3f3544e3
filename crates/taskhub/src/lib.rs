//! Client for the task hubs of Durable Functions on Azure Storage.
pub mod storage;
mod time;

pub use time::{Time, TimeError};
