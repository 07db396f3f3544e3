//! Client for the task hubs of Durable Functions on Azure Storage.

pub mod event;
pub mod message;
pub mod names;
pub mod partition;
pub mod storage;
mod time;

pub use time::{Time, TimeError};
