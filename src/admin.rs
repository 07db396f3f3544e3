//! The admin server: `/livez`, `/readyz` (which names what is missing), `/metrics`, `/log-filter`.
//!
//! Knows no controller: components hold a [`Gate`] each and open it when they
//! work. Liveness never depends on the API server or on storage: a restart
//! mends neither.
//!
//! What changes something, the log filter, is for this machine alone: it comes
//! through `kubectl port-forward`, which the cluster's own rights guard.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::telemetry::LogFilter;

/// The longest log filter, in bytes.
const LONGEST_LOG_FILTER: usize = 4096;

/// What has to work before the operator is ready, and what it is then.
#[derive(Clone, Default)]
pub struct Readiness {
    state: Arc<Mutex<Standing>>,
}

#[derive(Default)]
struct Standing {
    closed: Vec<Closed>,
    role: Option<String>,
}

struct Closed {
    name: String,
    problem: Option<String>,
}

/// One thing that has to work. It counts as missing until it is opened.
pub struct Gate {
    name: String,
    state: Arc<Mutex<Standing>>,
}

impl Readiness {
    /// A gate for `name`, a few words that tell a person what is waited for.
    pub fn gate(&self, name: impl Into<String>) -> Gate {
        let name = name.into();
        lock(&self.state).closed.push(Closed { name: name.clone(), problem: None });
        Gate { name, state: self.state.clone() }
    }

    /// What the operator is when nothing is missing, in a few words.
    pub fn set_role(&self, role: impl Into<String>) {
        lock(&self.state).role = Some(role.into());
    }

    /// What is still waited for, and why as far as that is known.
    pub fn missing(&self) -> Vec<String> {
        let with_problem = |closed: &Closed| match &closed.problem {
            Some(problem) => format!("{}: {problem}", closed.name),
            None => closed.name.clone(),
        };
        lock(&self.state).closed.iter().map(with_problem).collect()
    }

    fn role(&self) -> Option<String> {
        lock(&self.state).role.clone()
    }
}

impl Gate {
    /// It works now.
    pub fn open(&self) {
        lock(&self.state).closed.retain(|closed| closed.name != self.name);
    }

    /// Says why it does not work yet, and what to do. If it has worked before, this is no news.
    pub fn say(&self, problem: impl Into<String>) {
        if let Some(closed) = lock(&self.state).closed.iter_mut().find(|closed| closed.name == self.name) {
            closed.problem = Some(problem.into());
        }
    }

    /// It does not work, or no more, and why.
    pub fn close(&self, problem: impl Into<String>) {
        let mut state = lock(&self.state);
        state.closed.retain(|closed| closed.name != self.name);
        state.closed.push(Closed { name: self.name.clone(), problem: Some(problem.into()) });
    }
}

fn lock(state: &Mutex<Standing>) -> MutexGuard<'_, Standing> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the admin server shows and changes.
#[derive(Clone)]
pub struct Admin {
    /// Of `/readyz`.
    pub readiness: Readiness,
    /// Of `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Of `/log-filter`.
    pub log_filter: LogFilter,
}

/// Serves on `listener` until the shutdown begins.
///
/// # Errors
/// What the listener says.
pub async fn serve(listener: TcpListener, admin: Admin, shutdown: Shutdown) -> std::io::Result<()> {
    let service = router(admin).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(shutdown.begun()).await
}

fn router(admin: Admin) -> Router {
    let log_filter = get(show_log_filter).put(set_log_filter);
    Router::new()
        .route("/log-filter", log_filter.layer(DefaultBodyLimit::max(LONGEST_LOG_FILTER)).layer(middleware::from_fn(only_from_here)))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(admin)
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, String) {
    let missing = admin.readiness.missing();
    if !missing.is_empty() {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for:\n- {}\n", missing.join("\n- ")));
    }
    (StatusCode::OK, admin.readiness.role().map_or_else(|| "ok\n".to_owned(), |role| format!("ok: {role}\n")))
}

async fn scrape(State(admin): State<Admin>) -> impl IntoResponse {
    match admin.metrics.encode() {
        Ok(text) => (StatusCode::OK, [(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(CONTENT_TYPE, "text/plain")], error.to_string()),
    }
}

async fn show_log_filter(State(admin): State<Admin>) -> String {
    format!("{}\n", admin.log_filter.text())
}

async fn set_log_filter(State(admin): State<Admin>, filter: String) -> (StatusCode, String) {
    let before = admin.log_filter.text();
    let filter = filter.trim();
    match admin.log_filter.set(filter) {
        Ok(()) => {
            tracing::info!(before, filter, "the log filter was changed");
            (StatusCode::OK, format!("{filter}\n"))
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\nThe filter is still: {before}\n")),
    }
}

/// Refuses peers that are not on this machine, which in a cluster is this pod.
async fn only_from_here(ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request, next: Next) -> Response {
    if peer.ip().to_canonical().is_loopback() {
        return next.run(request).await;
    }
    let text = "only from this machine: use `kubectl port-forward` to the pod, and ask 127.0.0.1\n";
    (StatusCode::FORBIDDEN, text).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::connect_info::MockConnectInfo;
    use tower::ServiceExt;

    use super::*;

    #[test]
    fn readiness_names_what_is_missing_and_why() {
        let readiness = Readiness::default();
        let (crds, watch) = (readiness.gate("the CRD"), readiness.gate("the watch"));
        assert_eq!(readiness.missing(), ["the CRD", "the watch"]);
        crds.say("it is not installed");
        assert_eq!(readiness.missing(), ["the CRD: it is not installed", "the watch"]);
        watch.open();
        watch.say("interrupted");
        crds.open();
        assert!(readiness.missing().is_empty(), "a watch that worked is not missing again");
        crds.close("it was deleted");
        assert_eq!(readiness.missing(), ["the CRD: it was deleted"]);
    }

    #[tokio::test]
    async fn the_log_filter_is_for_this_machine_and_of_bounded_size() {
        let (_layer, log_filter) = crate::telemetry::tests::not_installed("info");
        let admin = Admin { readiness: Readiness::default(), metrics: Arc::default(), log_filter: log_filter.clone() };
        let long = format!("info,{}=debug", "a".repeat(LONGEST_LOG_FILTER));
        for (peer, method, body, expected, holds) in [
            ("192.0.2.7:1", "PUT", "debug", StatusCode::FORBIDDEN, "info"),
            ("[2001:db8::7]:1", "GET", "", StatusCode::FORBIDDEN, "info"),
            ("127.0.0.1:1", "PUT", " debug\n", StatusCode::OK, "debug"),
            ("127.0.0.1:1", "PUT", "nonsense", StatusCode::BAD_REQUEST, "debug"),
            ("127.0.0.1:1", "PUT", &long, StatusCode::PAYLOAD_TOO_LARGE, "debug"),
            ("127.0.0.1:1", "POST", "info", StatusCode::METHOD_NOT_ALLOWED, "debug"),
            ("[::1]:1", "PUT", "warn", StatusCode::OK, "warn"),
            ("[::ffff:127.0.0.1]:1", "GET", "", StatusCode::OK, "warn"),
        ] {
            let peer: SocketAddr = peer.parse().unwrap();
            let request = Request::builder().method(method).uri("/log-filter").body(Body::from(body.to_owned())).unwrap();
            let answer = router(admin.clone()).layer(MockConnectInfo(peer)).oneshot(request).await.unwrap();
            assert_eq!(answer.status(), expected, "{peer} {method}");
            assert_eq!(log_filter.text(), holds, "{peer} {method}");
        }
    }
}
