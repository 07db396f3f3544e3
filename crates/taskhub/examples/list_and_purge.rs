//! Lists the completed instances of a hub, and purges them if asked to.
//!
//! `STORAGE=<connection string> list_and_purge <hub> [--purge]`

use durable_taskhub::list::{Filter, ListOptions};
use durable_taskhub::names::HubName;
use durable_taskhub::purge::PurgeRequest;
use durable_taskhub::storage::{Account, Options, Storage};
use durable_taskhub::{RuntimeStatus, TaskHub};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // For endpoints with TLS; the emulator needs none.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [hub, rest @ ..] = arguments.as_slice() else { return Err("usage: list_and_purge <hub> [--purge]".into()) };
    let account = Account::from_connection_string(&std::env::var("STORAGE")?)?;
    let hub = TaskHub::connect(Storage::new(account, Options::default())?, HubName::new(hub)?, None).await?;
    let filter = Filter { statuses: vec![RuntimeStatus::Completed], ..Filter::default() };

    let mut options = ListOptions { filter: filter.clone(), show_input: false, ..ListOptions::default() };
    loop {
        let page = hub.list(&options).await?;
        for instance in page.instances {
            println!("{} {} {}", instance.id, instance.name, instance.runtime_status);
        }
        options.continuation = page.continuation;
        if options.continuation.is_none() {
            break;
        }
    }

    if rest.iter().any(|argument| argument == "--purge") {
        let mut request = PurgeRequest::new(filter);
        loop {
            let page = hub.purge_page(&request).await?;
            println!("purged {}", page.purged.instances);
            for (id, error) in page.failures {
                eprintln!("{id} is left: {error}");
            }
            request.continuation = page.continuation;
            if request.continuation.is_none() {
                break;
            }
        }
    }
    Ok(())
}
