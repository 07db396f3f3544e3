//! Logs to stderr, as text or JSON, beside the traces: the filter is that of the log alone.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::traces::Traces;

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged unless told otherwise. kube logs each 5xx as an error and each try as a span, which conditions and metrics show better.
pub const DEFAULT_FILTER: &str = "info,kube_client=warn,kube_runtime=warn,azure_core=warn,typespec_client_core=warn";

/// Installs the logger, and the traces beside it.
///
/// # Errors
/// A text that names what is wrong with `filter`, or that a logger is installed already.
pub fn install(format: LogFormat, filter: &str, traces: &Traces) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("invalid log filter: {error}"))?;
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let registry = tracing_subscriber::registry().with(traces.layer()).with(lines.with_filter(filter));
    registry.try_init().map_err(|error| error.to_string())
}
