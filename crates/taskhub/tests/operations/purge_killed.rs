//! A process that purges thousands of instances is killed halfway; another one goes on.

use std::time::{Duration, Instant};

use durable_bed::azurite::Azurite;
use durable_bed::guard::{Process, Signal};
use durable_bed::recording::difference;
use durable_taskhub::list::Filter;
use durable_taskhub::names::HubName;
use durable_taskhub::purge::PurgeRequest;
use durable_taskhub::{RuntimeStatus, TaskHub};
use futures::StreamExt;

use crate::support::{World, storage};

const INSTANCES: u64 = 5000;
const TEST: &str = "purge_killed::a_purge_of_thousands_killed_halfway_goes_on";
/// Set in the process that is to be killed: connection string and hub.
const CHILD: &str = "DURABLE_TEST_PURGE";

async fn purge_all(hub: &TaskHub) -> u64 {
    let filter =
        Filter { statuses: vec![RuntimeStatus::Completed, RuntimeStatus::Failed], id_prefix: "old-".to_owned(), ..Filter::default() };
    let mut request = PurgeRequest { parallel: 16, ..PurgeRequest::new(filter) };
    let mut purged = 0;
    loop {
        let page = hub.purge_page(&request).await.unwrap();
        assert!(page.failures.is_empty(), "{:?}", page.failures);
        purged += page.purged.instances;
        match page.continuation {
            Some(token) => request.continuation = Some(token),
            None => return purged,
        }
    }
}

async fn remaining(hub: &TaskHub) -> u64 {
    let filter = Filter { id_prefix: "old-".to_owned(), ..Filter::default() };
    hub.counts(&filter, 100).await.unwrap().total()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_of_thousands_killed_halfway_goes_on() {
    if let Ok(target) = std::env::var(CHILD) {
        let (connection_string, hub) = target.rsplit_once('|').unwrap();
        let hub = TaskHub::connect(storage(connection_string), HubName::new(hub).unwrap(), None).await.unwrap();
        purge_all(&hub).await;
        return;
    }
    let world = World::new().await;
    for (id, status) in [("old", "Completed"), ("old.", "Failed"), ("older-1", "Completed"), ("old-running", "Running")] {
        world.instance(id, status, 4).await;
        world.blob(&format!("{id}/history-1.json.gz")).await;
    }
    let neighbours = world.lines().await;
    let make = |number: u64| {
        let world = &world;
        async move {
            let id = format!("old-{number}");
            world.instance(&id, ["Completed", "Failed"][usize::from(number.is_multiple_of(2))], 4).await;
            if number.is_multiple_of(50) {
                world.blob(&format!("{id}/message-1.json.gz")).await;
            }
        }
    };
    futures::stream::iter(0..INSTANCES).map(make).buffer_unordered(32).collect::<Vec<()>>().await;
    let all = remaining(&world.hub).await;
    assert_eq!(all, INSTANCES + 1);

    let connection_string = Azurite::of_process().unwrap().connection_string();
    let folder = std::env::temp_dir().join(format!("durable-purge-{}", world.hub.name()));
    std::fs::create_dir_all(&folder).unwrap();
    let target = format!("{connection_string}|{}", world.hub.name());
    let program = std::env::current_exe().unwrap();
    let mut child = Process::start("purge", &folder, &program, ["--exact", TEST], [(CHILD, target.as_str())]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(300);
    while remaining(&world.hub).await > INSTANCES / 2 {
        assert!(child.ended().is_none(), "{}", child.output());
        assert!(Instant::now() < deadline, "{}", child.output());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    child.signal(Signal::Kill);
    child.wait(Duration::from_secs(10)).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let left = remaining(&world.hub).await;
    assert!(left > 1 && left < INSTANCES, "killed halfway: {left}");

    purge_all(&world.hub).await;
    assert_eq!(difference(&neighbours, &world.lines().await), None);
}
