//! Waiting for the end of an instance whose row changes meanwhile.

use std::time::{Duration, Instant};

use durable_taskhub::RuntimeStatus;
use durable_taskhub::storage::{Condition, Entity};
use durable_taskhub::wait::WaitError;

use crate::support::World;

#[tokio::test]
async fn a_wait_ends_with_the_run_and_costs_few_requests() {
    let world = World::new().await;
    world.instance("i", "Running", 0).await;
    let (proxy, hub) = world.proxied().await;
    let change = async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        let ended = Entity::new("i", "").with("RuntimeStatus", "Completed").with("Output", "\"done\"");
        world.table("Instances").merge(&ended, Condition::Any).await.unwrap();
    };
    let (ended, ()) = tokio::join!(hub.wait_for("i", Duration::from_secs(30)), change);
    let ended = ended.unwrap();
    assert_eq!(ended.runtime_status, RuntimeStatus::Completed);
    assert_eq!(ended.output.unwrap().inline(), Some("\"done\""));
    assert!(ended.input.is_none(), "the input is not transferred");
    let requests = proxy.requests();
    assert!((3..=8).contains(&requests.len()) && requests.iter().all(|request| !request.is_write()), "{requests:?}");
}

#[tokio::test]
async fn a_wait_says_what_it_saw_last() {
    let world = World::new().await;
    world.instance("i", "Running", 0).await;
    let (proxy, hub) = world.proxied().await;
    let begun = Instant::now();
    let Err(WaitError::TimedOut(seen)) = hub.wait_for("i", Duration::from_millis(400)).await else { panic!("it does not end") };
    assert_eq!((seen.id.as_str(), seen.runtime_status), ("i", RuntimeStatus::Running));
    assert!(begun.elapsed() >= Duration::from_millis(400));
    proxy.clear();
    assert!(matches!(hub.wait_for("i", Duration::ZERO).await, Err(WaitError::TimedOut(_))));
    assert_eq!(proxy.requests().len(), 1, "a limit of zero looks once");
}

#[tokio::test]
async fn an_instance_that_is_not_there_or_goes_away_is_said_at_once() {
    let world = World::new().await;
    assert!(matches!(world.hub.wait_for("none", Duration::from_secs(60)).await, Err(WaitError::NotFound)));
    world.instance("i", "Running", 0).await;
    let purge = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.table("Instances").delete("i", "", Condition::Any).await.unwrap();
    };
    let (gone, ()) = tokio::join!(world.hub.wait_for("i", Duration::from_secs(60)), purge);
    assert!(matches!(gone, Err(WaitError::NotFound)), "{gone:?}");
    world.hub.delete().await.unwrap();
    let error = world.hub.wait_for("i", Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(error, WaitError::Storage(_)), "a hub that is gone is no missing instance: {error}");
}
