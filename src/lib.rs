//! Kubernetes operator for Durable Functions.
pub mod api;
