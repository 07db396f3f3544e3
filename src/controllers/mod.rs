//! The controllers: one folder per kind, and what they share.
//!
//! `runner` is the one place that builds kube's `Controller`; `status` the one
//! that writes statuses; `events` the one that publishes Events.

pub mod events;
pub mod expiry;
pub mod failure;
pub mod finalizer;
mod metadata;
pub mod orchestration;
pub mod orchestration_event;
pub mod payload;
pub mod runner;
pub mod status;
pub mod task_hub;
mod watch;
