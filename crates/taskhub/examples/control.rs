//! Sends something to a running instance.
//!
//! `STORAGE=<connection string> control <hub> <id> raise <event> [payload as JSON]`, or `suspend`, `resume` or `terminate` with
//! an optional reason.

use durable_taskhub::TaskHub;
use durable_taskhub::names::HubName;
use durable_taskhub::storage::{Account, Options, Storage};
use durable_taskhub::terminate::Terminating;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // For endpoints with TLS; the emulator needs none.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [hub, id, command, rest @ ..] = arguments.as_slice() else {
        return Err("usage: control <hub> <id> raise <event> [payload] | suspend [reason] | resume [reason] | terminate [reason]".into());
    };
    let account = Account::from_connection_string(&std::env::var("STORAGE")?)?;
    let hub = TaskHub::connect(Storage::new(account, Options::default())?, HubName::new(hub)?, None).await?;

    match (*command, rest) {
        ("raise", [event, payload @ ..]) => drop(hub.raise_event(id, event, payload.first().copied()).await?),
        ("suspend", reason) => drop(hub.suspend(id, reason.first().copied()).await?),
        ("resume", reason) => drop(hub.resume(id, reason.first().copied()).await?),
        ("terminate", reason) => match hub.terminate(id, reason.first().copied()).await? {
            Terminating::Sent(_) => {}
            Terminating::Withdrawn => return Err("the instance was purged meanwhile; nothing was left in its queue".into()),
            Terminating::Stranded(_) => return Err("the instance was purged meanwhile; a worker has the message".into()),
        },
        _ => return Err("the command is raise <event>, suspend, resume or terminate".into()),
    }
    println!("{command}: sent");
    Ok(())
}
