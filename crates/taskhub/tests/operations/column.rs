//! A column of ours in a row of the engine's, by the version that was read.

use durable_taskhub::column::{ColumnError, ColumnSet, MAX_COLUMN_CHARACTERS};
use durable_taskhub::storage::{Condition, Entity};

use crate::support::{World, counted};

#[tokio::test]
async fn a_column_is_claimed_once_and_nothing_else_is_changed() {
    let world = World::new().await;
    world.instance("a/b", "Running", 3).await;
    let before = world.table("Instances").get("a^0b", "", &[]).await.unwrap().unwrap();
    let etag = world.hub.get("a/b").await.unwrap().unwrap().etag.unwrap();
    let (proxy, hub) = world.proxied().await;

    let ColumnSet::Set(newer) = hub.set_column("a/b", "KubernetesOwner", "n/o/u", &etag).await.unwrap() else { panic!("not set") };
    assert_eq!(counted(&proxy.requests()), "1 PATCH Table");
    let row = hub.get_without_input("a/b", &["KubernetesOwner"]).await.unwrap().unwrap();
    assert_eq!((row.column("KubernetesOwner"), row.etag.as_ref()), (Some("n/o/u"), Some(&newer)));
    let mut after = world.table("Instances").get("a^0b", "", &[]).await.unwrap().unwrap();
    after.columns.remove("KubernetesOwner");
    assert_eq!(after.columns, before.columns);

    // Somebody else, who has read the row before, is late.
    assert_eq!(hub.set_column("a/b", "KubernetesOwner", "x/y/z", &etag).await.unwrap(), ColumnSet::Changed);
    // A checkpoint of the engine counts as a change, too.
    world.table("Instances").merge(&Entity::new("a^0b", "").with("CustomStatus", "1"), Condition::Any).await.unwrap();
    assert_eq!(hub.set_column("a/b", "KubernetesOwner", "x/y/z", &newer).await.unwrap(), ColumnSet::Changed);
    assert_eq!(world.hub.get("a/b").await.unwrap().unwrap().column("KubernetesOwner"), Some("n/o/u"));
    world.hub.storage().table(&world.hub.name().instances_table()).delete("a^0b", "", Condition::Any).await.unwrap();
    assert_eq!(hub.set_column("a/b", "KubernetesOwner", "x/y/z", &newer).await.unwrap(), ColumnSet::Gone);

    proxy.clear();
    for column in ["RuntimeStatus", "executionid", "InputBlobName"] {
        assert!(matches!(hub.set_column("a/b", column, "x", &etag).await, Err(ColumnError::OfTheHub(_))), "{column}");
    }
    assert!(matches!(hub.set_column("a/b", "a-b", "x", &etag).await, Err(ColumnError::Name)));
    let long = "x".repeat(MAX_COLUMN_CHARACTERS + 1);
    assert!(matches!(hub.set_column("a/b", "Mine", &long, &etag).await, Err(ColumnError::TooLong)));
    assert_eq!(proxy.requests().len(), 0);
}

/// A hub that is gone is no row that is gone.
#[tokio::test]
async fn without_the_table_it_fails() {
    let world = World::new().await;
    world.instance("i", "Running", 3).await;
    let etag = world.hub.get("i").await.unwrap().unwrap().etag.unwrap();
    world.table("Instances").delete_table().await.unwrap();
    assert!(
        matches!(world.hub.set_column("i", "Mine", "x", &etag).await, Err(ColumnError::Storage(error)) if error.is_container_not_found())
    );
}
