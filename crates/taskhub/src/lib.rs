//! Client for the task hubs of Durable Functions on Azure Storage.

pub mod event;
mod hub;
mod instance;
pub mod message;
pub mod names;
pub mod partition;
pub mod payload;
mod query;
pub mod start;
pub mod storage;
mod time;

pub use hub::{ConnectError, Partition, TaskHub};
pub use instance::{Instance, RuntimeStatus};
pub use time::{Time, TimeError};
