//! Client for the task hubs of Durable Functions on Azure Storage.

pub mod artifacts;
pub mod control;
pub mod counts;
pub mod entity;
pub mod event;
pub mod history;
mod hub;
pub mod info;
#[doc(hidden)]
pub mod inspection;
mod instance;
pub mod list;
pub mod message;
pub mod names;
mod outgoing;
pub mod partition;
pub mod payload;
pub mod purge;
mod query;
mod raise_event;
pub mod restart;
pub mod rewind;
pub mod start;
pub mod storage;
mod suspend;
pub mod terminate;
mod time;
pub mod wait;

pub use hub::{ConnectError, Partition, TaskHub};
pub use instance::{Instance, RuntimeStatus};
pub use time::{Time, TimeError};
