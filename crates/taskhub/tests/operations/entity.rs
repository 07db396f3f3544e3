//! Entities, against the recording of the extension's.

use std::time::Duration;

use durable_bed::recording::{MessageState, difference};
use durable_taskhub::Time;
use durable_taskhub::entity::{CleanRequest, EntityId, EntityListOptions, Signal, SignalError};
use durable_taskhub::storage::{Condition, Entity};

use crate::support::{World, counted, recording};

fn counter(key: &str) -> EntityId {
    EntityId::new("Counter", key).unwrap()
}

fn signal(operation: &str, input: Option<&str>) -> Signal {
    Signal { operation: operation.to_owned(), input: input.map(str::to_owned), due: None }
}

/// The lines of the messages, without the random ID in the request and the number by which ours sort after starts.
fn messages(lines: Vec<String>) -> Vec<String> {
    let cut = |line: String, from: &str, digits: fn(char) -> bool| match line.find(from) {
        Some(at) => {
            let (left, right) = line.split_at(at + from.len());
            format!("{left}<any>{}", right.trim_start_matches(digits))
        }
        None => line,
    };
    let lines = lines.into_iter().filter(|line| line.starts_with("queue"));
    let lines = lines.map(|line| cut(line, "\\\"id\\\":\\\"", |c| c.is_ascii_hexdigit() || c == '-'));
    lines.map(|line| cut(line, "\"CompressedBlobName\":null,\"SequenceNumber\":", |c| c.is_ascii_digit())).collect()
}

#[tokio::test]
async fn signals_are_what_the_official_client_sends() {
    let recording = recording("hub/ext__durable__entity");
    let expected = messages(recording.snapshot("signalled").unwrap().normalised(&recording.hub));
    assert!(expected.iter().any(|line| line.contains("\\\"op\\\":\\\"add\\\"")));
    let world = World::new().await;
    let (proxy, hub) = world.proxied().await;
    hub.signal(&counter("k1"), &signal("add", Some("3"))).await.unwrap();
    hub.signal(&counter("k1"), &signal("add", Some("4"))).await.unwrap();
    let due = Time::now().saturating_add(Duration::from_secs(3600));
    hub.signal(&counter("k1"), &Signal { due: Some(due), ..signal("add", Some("100")) }).await.unwrap();
    assert_eq!(difference(&expected, &messages(world.lines().await)), None);
    let requests = proxy.requests();
    assert_eq!(counted(&requests), "3 POST Queue");
    assert!(requests[2].query.contains("visibilitytimeout=3600"), "{}", requests[2].query);

    let far = Time::now().saturating_add(Duration::from_secs(365 * 24 * 3600));
    hub.signal(&counter("k1"), &Signal { due: Some(far), ..signal("add", None) }).await.unwrap();
    assert!(proxy.requests()[3].query.contains("visibilitytimeout=518400"), "{}", proxy.requests()[3].query);
    proxy.clear();
    assert!(matches!(hub.signal(&counter("k1"), &signal("add", Some("{"))).await, Err(SignalError::InvalidInput(_))));
    assert!(matches!(hub.signal(&counter("k1"), &signal("", None)).await, Err(SignalError::NoOperation)));
    assert_eq!(proxy.requests().len(), 0);
}

#[tokio::test]
async fn a_large_signal_goes_through_a_blob() {
    let world = World::new().await;
    let text = format!("\"{}\"", "x".repeat(100_000));
    world.hub.signal(&counter("k1"), &signal("set", Some(&text))).await.unwrap();
    let blobs = world.blobs().await;
    assert!(blobs.len() == 1 && blobs[0].starts_with("@counter@k1/message-") && blobs[0].ends_with("-EventRaised.json.gz"), "{blobs:?}");
    let snapshot = world.snapshot().await;
    let sent: Vec<&MessageState> = snapshot.queues.values().flat_map(|queue| &queue.messages).collect();
    assert!(sent.len() == 1 && sent[0].text.len() < 2000);
}

#[tokio::test]
async fn states_are_read_and_listed() {
    let recording = recording("hub/ext__durable__entity");
    let world = World::of(&recording, "called").await;
    let found = world.hub.entity(&counter("k1"), 1000).await.unwrap().unwrap();
    assert_eq!((found.exists, found.state.as_deref(), found.queue_size), (true, Some("7"), 0));
    assert_eq!(world.hub.entity(&counter("missing"), 1000).await.unwrap(), None);
    let (proxy, hub) = world.proxied().await;
    let page = hub.entities(&EntityListOptions { show_state: true, ..EntityListOptions::default() }).await.unwrap();
    let states: Vec<(String, Option<String>)> = page.entities.into_iter().map(|entity| (entity.id.to_string(), entity.state)).collect();
    assert_eq!(states, [("@counter@k1".to_owned(), Some("7".to_owned())), ("@counter@k2".to_owned(), Some("3".to_owned()))]);
    assert_eq!(counted(&proxy.requests()), "1 GET Table");
    let of_name = |name: &str| EntityListOptions { name: Some(name.to_owned()), ..EntityListOptions::default() };
    assert_eq!(hub.entities(&of_name("COUNTER")).await.unwrap().entities.len(), 2);
    assert_eq!(hub.entities(&of_name("count")).await.unwrap().entities.len(), 0);

    let world = World::of(&recording, "deleted").await;
    assert!(!world.hub.entity(&counter("k1"), 1000).await.unwrap().unwrap().exists);
    let ids = |page: durable_taskhub::entity::EntityPage| page.entities.iter().map(|entity| entity.id.key().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(world.hub.entities(&EntityListOptions::default()).await.unwrap()), ["k2"]);
    let all = EntityListOptions { include_deleted: true, ..EntityListOptions::default() };
    assert_eq!(ids(world.hub.entities(&all).await.unwrap()), ["k1", "k2"]);
}

#[tokio::test]
async fn cleaning_removes_what_is_empty_and_releases_what_nobody_holds() {
    let recording = recording("hub/ext__durable__entity");
    let world = World::of(&recording, "deleted").await;
    // The recorded cleaning came within the window and removed nothing.
    let recorded = recording.commands("cleanEntities").count();
    assert_eq!(recorded, 1);
    let before = world.lines().await;
    let window = Time::now().since(Time::parse("2026-11-23T07:35:28Z").unwrap()).saturating_add(Duration::from_secs(600));
    let kept = world.hub.clean_entities(&CleanRequest { empty_for: Some(window), ..CleanRequest::default() }).await.unwrap();
    assert_eq!((kept.removed.len(), kept.released.len()), (0, 0));
    assert_eq!(difference(&before, &world.lines().await), None);

    // Locked by one that has ended, and by one that works.
    world.instance("working", "Running", 3).await;
    for (key, owner) in [("k2", "callcounter-1"), ("k3", "working"), ("k4", "missing")] {
        let row = Entity::new(format!("@counter@{key}"), "")
            .with("CustomStatus", format!("{{\"entityExists\":true,\"lockedBy\":\"{owner}\"}}"))
            .with("RuntimeStatus", "Running");
        world.table("Instances").merge(&row, Condition::Upsert).await.unwrap();
    }
    let cleaned =
        world.hub.clean_entities(&CleanRequest { empty_for: Some(Duration::from_secs(1)), ..CleanRequest::default() }).await.unwrap();
    assert!(cleaned.failures.is_empty());
    assert_eq!(cleaned.removed, [counter("k1")]);
    assert_eq!(cleaned.released, [counter("k2"), counter("k4")]);
    let lines = world.lines().await;
    assert!(!lines.iter().any(|line| line.contains("@counter@k1|")));
    let releases: Vec<&String> = lines.iter().filter(|line| line.contains("fix-orphaned-lock")).collect();
    assert!(
        releases.len() == 2
            && releases.iter().any(|line| line.contains("{\\\"parent\\\":\\\"callcounter-1\\\",\\\"id\\\":\\\"fix-orphaned-lock\\\"}"))
    );
}
