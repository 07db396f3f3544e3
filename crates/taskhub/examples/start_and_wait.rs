//! Starts an orchestration and waits for its end.
//!
//! `STORAGE=<connection string> start_and_wait <hub> <function> [input as JSON]`

use std::time::Duration;

use durable_taskhub::TaskHub;
use durable_taskhub::names::HubName;
use durable_taskhub::start::StartRequest;
use durable_taskhub::storage::{Account, Options, Storage};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // For endpoints with TLS; the emulator needs none.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [hub, function, input @ ..] = arguments.as_slice() else {
        return Err("usage: start_and_wait <hub> <function> [input as JSON]".into());
    };
    let account = Account::from_connection_string(&std::env::var("STORAGE")?)?;
    let hub = TaskHub::connect(Storage::new(account, Options::default())?, HubName::new(hub)?, None).await?;

    let request = StartRequest { input: input.first().cloned(), ..StartRequest::new(function) };
    let id = request.instance_id.clone();
    hub.start(request).await?;
    let ended = hub.wait_for(id.as_str(), Duration::from_secs(60)).await?;
    let output = match &ended.output {
        Some(output) => hub.fetch(output, 1 << 20).await?,
        None => "no output".to_owned(),
    };
    println!("{id} {}: {output}", ended.runtime_status);
    Ok(())
}
