//! The admin server: `/livez`, `/readyz` (which names what is missing), `/metrics`.
//!
//! Knows no controller: components hold a [`Gate`] each and open it when they
//! work. Liveness never depends on the API server or on storage: a restart
//! mends neither.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// What has to work before the operator is ready.
#[derive(Clone, Default)]
pub struct Readiness {
    closed: Arc<Mutex<Vec<String>>>,
}

/// One thing that has to work. It counts as missing until it is opened.
pub struct Gate {
    name: String,
    closed: Arc<Mutex<Vec<String>>>,
}

impl Readiness {
    /// A gate for `name`, a few words that tell a person what is waited for.
    pub fn gate(&self, name: impl Into<String>) -> Gate {
        let name = name.into();
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        Gate { name, closed: self.closed.clone() }
    }

    /// What is still waited for.
    pub fn missing(&self) -> Vec<String> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Gate {
    /// It works now.
    pub fn open(&self) {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).retain(|name| *name != self.name);
    }
}

#[derive(Clone)]
struct Admin {
    readiness: Readiness,
    metrics: Arc<Metrics>,
}

/// Serves on `listener` until the shutdown begins.
///
/// # Errors
/// What the listener says.
pub async fn serve(listener: TcpListener, readiness: Readiness, metrics: Arc<Metrics>, shutdown: Shutdown) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(Admin { readiness, metrics });
    axum::serve(listener, router).with_graceful_shutdown(shutdown.begun()).await
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, String) {
    let missing = admin.readiness.missing();
    if missing.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for:\n- {}\n", missing.join("\n- ")))
    }
}

async fn scrape(State(admin): State<Admin>) -> impl IntoResponse {
    match admin.metrics.encode() {
        Ok(text) => (StatusCode::OK, [(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(CONTENT_TYPE, "text/plain")], error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_what_is_missing() {
        let readiness = Readiness::default();
        let (crds, watch) = (readiness.gate("the CRD"), readiness.gate("the watch"));
        assert_eq!(readiness.missing(), ["the CRD", "the watch"]);
        watch.open();
        assert_eq!(readiness.missing(), ["the CRD"]);
        crds.open();
        assert!(readiness.missing().is_empty());
    }
}
