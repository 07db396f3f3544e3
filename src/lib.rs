//! Kubernetes operator for Durable Functions.
pub mod admin;
pub mod api;
pub mod changes;
pub mod config;
pub mod connection;
pub mod controllers;
pub mod crash_points;
pub mod hubs;
pub mod metrics;
pub mod operator;
pub mod poller;
pub mod shutdown;
pub mod telemetry;
