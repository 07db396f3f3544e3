//! Client for the task hubs of Durable Functions on Azure Storage.

pub mod control;
pub mod event;
mod hub;
mod instance;
pub mod message;
pub mod names;
pub mod partition;
pub mod payload;
mod query;
mod raise_event;
pub mod restart;
pub mod start;
pub mod storage;
mod suspend;
pub mod terminate;
mod time;

pub use hub::{ConnectError, Partition, TaskHub};
pub use instance::{Instance, RuntimeStatus};
pub use time::{Time, TimeError};
