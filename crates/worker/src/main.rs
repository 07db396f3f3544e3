//! The command `durable-worker`: arguments, logs and signals around [`durable_worker::Worker`].

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use durable_taskhub::names::HubName;
use durable_taskhub::partition::PartitionCount;
use durable_taskhub::storage::{Account, Options, Storage};
use durable_worker::samples::activities::Markers;
use durable_worker::{Worker, create};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Sample worker for a Durable Functions task hub on Azure Storage.
///
/// Runs sample orchestrators: Approval, ApprovalWithTimeout, BigOutput, Cascade, Chain, Counter, CustomStatus, Echo, Fail, FailInActivity, FailNested, FailOnce, FanOut, Flaky, HelloSequence, ParentChild, Sleep. For demos and tests of the operator, not for production; do not let it share a hub with a real worker.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  STORAGE='UseDevelopmentStorage=true' durable-worker --connection-string-env STORAGE --task-hub-name Orders --create-hub\n  durable-worker --connection-string-env STORAGE --task-hub-name Orders\n\nSIGTERM or Ctrl-C finishes what is at work and gives the leases back; a second one ends at once.\nLogs go to stderr; RUST_LOG filters them."
)]
struct Arguments {
    /// Name of the environment variable that holds the storage connection string.
    #[arg(long, value_name = "NAME", env = "DURABLE_CONNECTION_STRING_ENV")]
    connection_string_env: String,
    /// The task hub, with its exact case.
    #[arg(long, value_name = "HUB", env = "DURABLE_TASK_HUB_NAME", value_parser = |name: &str| HubName::new(name))]
    task_hub_name: HubName,
    /// Create the queues, tables and containers that the hub lacks.
    #[arg(long, env = "DURABLE_CREATE_HUB")]
    create_hub: bool,
    /// How many partitions --create-hub makes, 1 to 16. An existing hub has as many as its Partitions table has rows.
    #[arg(long, value_name = "N", env = "DURABLE_PARTITION_COUNT", default_value = "4", value_parser = partition_count)]
    partition_count: PartitionCount,
    /// Folder of marker files, by which Flaky is healed (a file named by the key) and FailOnce knows that it failed.
    #[arg(long, value_name = "FOLDER", env = "FLAKY_DIR")]
    flaky_dir: Option<PathBuf>,
}

fn partition_count(text: &str) -> Result<PartitionCount, &'static str> {
    text.parse().ok().and_then(PartitionCount::new).ok_or("not a number from 1 to 16")
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn,durable_worker=info".into());
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    // Nobody else in this process has chosen one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let stop = stop_on_signals()?;
    let variable = &arguments.connection_string_env;
    let connection_string = std::env::var(variable).map_err(|_| format!("environment variable {variable} is not set"))?;
    let account = Account::from_connection_string(&connection_string).map_err(|error| format!("{variable}: {error}"))?;
    let storage = Storage::new(account, Options::default())?;
    if arguments.create_hub {
        create::create_hub(&storage, &arguments.task_hub_name, arguments.partition_count).await?;
    }
    let worker_id = format!("durable-worker-{}", uuid::Uuid::new_v4().simple());
    let hub = arguments.task_hub_name.to_string();
    let worker = Worker::open(&storage, arguments.task_hub_name, worker_id, Markers(arguments.flaky_dir)).await?;
    tracing::info!(hub, "serving");
    worker.run(stop).await?;
    tracing::info!(hub, "stopped");
    Ok(())
}

/// True after the first SIGTERM or SIGINT; the second one ends the process.
fn stop_on_signals() -> std::io::Result<watch::Receiver<bool>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if sender.send_replace(true) {
                std::process::exit(1);
            }
        }
    });
    Ok(receiver)
}
