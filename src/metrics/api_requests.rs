//! Counts the requests to the API server, since kube has no metrics of its own, and makes each a span.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Method, Request, Response, Uri};
use tower::{Layer, Service};
use tracing::Instrument;
use tracing::field::Empty;

use super::{ApiLabels, ApiMetrics};

/// Wraps a kube client so that each request is counted.
#[derive(Clone)]
pub struct ApiRequestLayer {
    metrics: ApiMetrics,
}

impl ApiRequestLayer {
    /// Counts into `metrics`.
    pub fn new(metrics: ApiMetrics) -> ApiRequestLayer {
        ApiRequestLayer { metrics }
    }
}

impl<S> Layer<S> for ApiRequestLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, metrics: self.metrics.clone() }
    }
}

/// A service whose requests are counted.
#[derive(Clone)]
pub struct Counted<S> {
    inner: S,
    metrics: ApiMetrics,
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for Counted<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let (verb, resource) = (verb(request.method(), request.uri()), resource(request.uri().path()));
        // Its parent is who asked: the client's queue enters that span for this call.
        let span = tracing::debug_span!(
            "api_server",
            otel.name = format_args!("{verb} {resource}"),
            otel.kind = "client",
            otel.status_code = Empty,
            http.response.status_code = Empty,
        );
        let (call, metrics) = (self.inner.call(request), self.metrics.clone());
        Box::pin(async move {
            let result = call.instrument(span.clone()).await;
            let code = result.as_ref().map_or(0, |response| response.status().as_u16());
            span.record("http.response.status_code", code);
            if !(200..400).contains(&code) {
                span.record("otel.status_code", "ERROR");
            }
            metrics.requests.get_or_create(&ApiLabels { verb, resource, code }).inc();
            result
        })
    }
}

fn verb(method: &Method, uri: &Uri) -> &'static str {
    let watches = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1"));
    match *method {
        Method::GET if watches => "watch",
        Method::GET => "read",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

/// `orchestrations/status` of `/apis/durable-operator.dev/v1alpha1/namespaces/shop/orchestrations/x/status`.
fn resource(path: &str) -> String {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    match parts.next() {
        Some("api") => parts.next(),
        Some("apis") => parts.next().and(parts.next()),
        _ => return "other".to_owned(),
    };
    let rest: Vec<&str> = parts.collect();
    match rest.as_slice() {
        [] => "other".to_owned(),
        ["namespaces", _, resource] | ["namespaces", _, resource, _] => (*resource).to_owned(),
        ["namespaces", _, resource, _, subresource, ..] => format!("{resource}/{subresource}"),
        [resource, ..] => (*resource).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_objects_are_no_labels() {
        for (path, expected) in [
            ("/apis/durable-operator.dev/v1alpha1/namespaces/shop/orchestrations/order-1/status", "orchestrations/status"),
            ("/apis/durable-operator.dev/v1alpha1/orchestrations", "orchestrations"),
            ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/x", "customresourcedefinitions"),
            ("/api/v1/namespaces/shop/secrets", "secrets"),
            ("/apis/events.k8s.io/v1/namespaces/shop/events/a.1", "events"),
            ("/version", "other"),
        ] {
            assert_eq!(resource(path), expected);
        }
        assert_eq!(verb(&Method::GET, &"/api/v1/secrets?watch=true&x=y".parse().unwrap()), "watch");
        assert_eq!(verb(&Method::PUT, &"/api/v1/secrets".parse().unwrap()), "update");
    }
}
