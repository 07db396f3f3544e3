//! Logs to stderr, as text or JSON. Knows nobody.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

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

/// Installs the logger.
///
/// # Errors
/// A text that names what is wrong with `filter`, or that a logger is installed already.
pub fn install(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("invalid log filter: {error}"))?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|error| error.to_string())
}
