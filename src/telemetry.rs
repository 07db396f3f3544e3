//! Logs to stderr, as text or JSON, through a filter that can be changed at run time and is that of the log alone: traces stand
//! beside it. Knows nobody but them.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

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

/// The filter of the log, which can be changed while the operator runs. Clones change the same.
#[derive(Clone)]
pub struct LogFilter {
    /// As it was given: what the parsed filter shows is in another order.
    text: Arc<Mutex<String>>,
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogFilter {
    /// The filter that holds now.
    pub fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes `filter` the one that holds.
    ///
    /// # Errors
    /// A text that names what is wrong with it; then nothing has changed.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let parsed = parse(filter)?;
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle.reload(parsed).map_err(|error| error.to_string())?;
        filter.clone_into(&mut text);
        Ok(())
    }
}

/// A filter and what changes it, for a logger that is not installed yet.
fn changeable(filter: &str) -> Result<(reload::Layer<EnvFilter, Registry>, LogFilter), String> {
    let (layer, handle) = reload::Layer::new(parse(filter)?);
    Ok((layer, LogFilter { text: Arc::new(Mutex::new(filter.to_owned())), handle }))
}

/// Installs the logger, and the traces beside it.
///
/// # Errors
/// A text that names what is wrong with `filter`, or that a logger is installed already.
pub fn install(format: LogFormat, filter: &str, traces: &Traces) -> Result<LogFilter, String> {
    let (layer, filter) = changeable(filter)?;
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(layer)).with(traces.layer()).try_init().map_err(|error| error.to_string())?;
    Ok(filter)
}

/// A filter without the mistakes that the parser takes for something else: a misspelt level is the name of a module to it,
/// and everything else falls silent.
fn parse(filter: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    if filter.trim().is_empty() {
        return Err("invalid log filter: it is empty; `info` or `info,durable_operator=debug` would do".to_owned());
    }
    let is_name = |part: &&str| part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let is_level = |part: &str| LEVELS.iter().any(|level| part.eq_ignore_ascii_case(level)) || part.parse::<u8>().is_ok_and(|n| n <= 5);
    if let Some(word) = filter.split(',').map(str::trim).filter(is_name).find(|part| !part.is_empty() && !is_level(part)) {
        return Err(format!("invalid log filter: {word} is none of {}; all of a module is {word}=trace", LEVELS.join(", ")));
    }
    EnvFilter::try_new(filter).map_err(|error| format!("invalid log filter: {error}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A filter of a logger that nobody installs; the layer has to live as long as it.
    pub(crate) fn not_installed(filter: &str) -> (impl Sized + use<>, LogFilter) {
        changeable(filter).unwrap()
    }

    #[test]
    fn a_filter_that_says_something_else_than_it_seems_is_refused() {
        for good in
            ["info", "INFO", "0", "info,durable_operator=debug", "durable_operator", "durable_operator[reconcile{name=a}]=debug", "off"]
        {
            assert_eq!(parse(good).err().is_some(), good == "durable_operator", "{good}");
        }
        for (bad, says) in [("", "empty"), (" ", "empty"), ("debgu", "debgu=trace"), ("info,x=lots", "invalid"), ("a=b=c", "invalid")] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn a_bad_filter_changes_nothing() {
        let (_layer, filter) = not_installed("warn");
        filter.set("info,durable_operator=debug").unwrap();
        filter.set("nonsense").unwrap_err();
        assert_eq!(filter.text(), "info,durable_operator=debug");
    }
}
