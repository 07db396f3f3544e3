use durable_taskhub::Time;
use durable_taskhub::storage::{Condition, ETag, Entity, Operation, Query, StorageErrorKind, Table, Value, quote};

use crate::emulator::{storage, unique};

async fn table() -> Table {
    let table = storage().table(&unique("Table"));
    assert!(table.create_if_missing().await.unwrap());
    table
}

async fn all(table: &Table, query: Query) -> (Vec<Entity>, usize) {
    let (mut entities, mut pages, mut query) = (Vec::new(), 0, query);
    loop {
        let page = table.query(&query).await.unwrap();
        entities.extend(page.entities);
        pages += 1;
        query.continuation = page.continuation;
        if query.continuation.is_none() {
            return (entities, pages);
        }
    }
}

#[tokio::test]
async fn tables_are_made_and_deleted_once() {
    let table = storage().table(&unique("Table"));
    assert!(table.create_if_missing().await.unwrap());
    assert!(!table.create_if_missing().await.unwrap());
    assert!(table.delete_table().await.unwrap());
    assert!(!table.delete_table().await.unwrap());
}

#[tokio::test]
async fn every_type_comes_back_as_it_went() {
    let table = table().await;
    let mut entity = Entity::new("p", "r")
        .with("Text", "tab\t, quote \" and \u{1f600}, \u{fffe}")
        .with("Empty", "")
        .with("Int32", i32::MIN)
        .with("Int64", i64::MAX)
        .with("Small64", 7_i64)
        .with("Yes", true)
        .with("Time", Time::parse("2026-11-23T07:29:23.8720561Z").unwrap())
        .with("Whole", Time::parse("2025-03-14T10:00:00Z").unwrap())
        .with("Pi", 3.25)
        .with("One", 1.0)
        .with("Infinite", f64::NEG_INFINITY)
        .with("Bytes", vec![0_u8, 1, 254, 255]);
    entity.set("Guid", Value::Guid("0f8fad5b-d9cb-469f-a165-70867728950e".to_owned()));
    let etag = table.insert(&entity).await.unwrap();

    let read = table.get("p", "r", &[]).await.unwrap().unwrap();
    assert_eq!(read.columns, entity.columns);
    assert_eq!(read.etag, Some(etag));
    assert!(read.timestamp.is_some());

    let some = table.get("p", "r", &["Int64", "Time"]).await.unwrap().unwrap();
    assert_eq!(some.columns.keys().collect::<Vec<_>>(), ["Int64", "Time"]);
    assert_eq!((some.partition_key.as_str(), some.row_key.as_str()), ("p", "r"));
    assert_eq!(some.columns["Int64"], Value::Int64(i64::MAX));
}

#[tokio::test]
async fn a_filter_by_time_finds_the_tick() {
    let table = table().await;
    let time = Time::parse("2026-11-23T07:29:23.8720561Z").unwrap();
    table.insert(&Entity::new("p", "r").with("CreatedTime", time)).await.unwrap();
    let filter =
        |operator: &str| Query { filter: Some(format!("CreatedTime {operator} datetime'{}'", time.to_table())), ..Query::default() };
    assert_eq!(all(&table, filter("ge")).await.0.len(), 1);
    assert_eq!(all(&table, filter("gt")).await.0.len(), 0);
}

#[tokio::test]
async fn keys_of_any_text_address_their_own_row() {
    let table = table().await;
    let keys = [
        "",
        " ",
        "a b",
        "it's",
        "''",
        "100%",
        "a%2Fb",
        "%27",
        "@id@x",
        "a+b",
        "a&b=c",
        "é",
        "日本",
        "\u{1f600}",
        "a:b",
        "a^0b",
        "a^^b",
        "^\u{c9}",
        "a|b",
        "(x)",
        "x,RowKey='y'",
        "trailing.",
        "..",
        ".",
        "\"q\"",
        "<a>",
        "{a}",
        "[a]",
        "`",
        "~",
        "$batch",
        "a;b",
        "a=b",
        "*",
    ];
    for key in keys {
        let entity = Entity::new(key, key).with("Key", key);
        table.insert(&entity).await.unwrap_or_else(|error| panic!("insert {key:?}: {error}"));
        let read = table.get(key, key, &[]).await.unwrap().unwrap_or_else(|| panic!("{key:?} is not there"));
        assert_eq!(read.text("Key"), Some(key));
        table
            .merge(&Entity::new(key, key).with("Seen", true), Condition::Any)
            .await
            .unwrap_or_else(|error| panic!("merge {key:?}: {error}"));
        let filter = format!("PartitionKey eq {} and RowKey eq {}", quote(key), quote(key));
        let found = all(&table, Query { filter: Some(filter), ..Query::default() }).await.0;
        assert_eq!(found.iter().map(|entity| entity.text("Key")).collect::<Vec<_>>(), [Some(key)]);
        assert_eq!(found[0].boolean("Seen"), Some(true));
    }
    assert_eq!(all(&table, Query::default()).await.0.len(), keys.len());
    // A continuation may hold any of the keys.
    assert_eq!(all(&table, Query { top: Some(1), ..Query::default() }).await.0.len(), keys.len());
    for key in keys {
        assert!(table.delete(key, key, Condition::Any).await.unwrap(), "{key:?}");
    }
    assert_eq!(all(&table, Query::default()).await.0.len(), 0);
}

#[tokio::test]
async fn keys_that_no_table_can_hold_are_refused_before_they_are_sent() {
    let (recorder, options) = crate::emulator::Recorder::options();
    let storage = durable_taskhub::storage::Storage::new(crate::emulator::account(), options).unwrap();
    let table = storage.table("Anything");
    for key in ["a/b", "a\\b", "a#b", "a?b", "a\tb", "a\nb", "\u{7f}", "\u{9f}"] {
        let error = table.get(key, "", &[]).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::InvalidInput, "{key:?}");
        assert_eq!(table.insert(&Entity::new("", key)).await.unwrap_err().kind(), StorageErrorKind::InvalidInput);
    }
    assert_eq!(storage.table("no-table").get("a", "b", &[]).await.unwrap_err().kind(), StorageErrorKind::InvalidInput);
    assert!(recorder.take().is_empty());
}

#[tokio::test]
async fn conditions_hold() {
    let table = table().await;
    let entity = Entity::new("p", "r").with("A", 1).with("B", 1);
    let first = table.insert(&entity).await.unwrap();

    let error = table.insert(&entity).await.unwrap_err();
    assert!(error.is_already_exists(), "{error}");
    assert_eq!((error.status(), error.code()), (Some(409), Some("EntityAlreadyExists")));

    let second = table.merge(&Entity::new("p", "r").with("A", 2), Condition::Match(first.clone())).await.unwrap();
    assert_ne!(first, second);
    let error = table.merge(&Entity::new("p", "r").with("A", 3), Condition::Match(first.clone())).await.unwrap_err();
    assert!(error.is_precondition_failed(), "{error}");
    assert_eq!((error.status(), error.code()), (Some(412), Some("UpdateConditionNotSatisfied")));
    let read = table.get("p", "r", &[]).await.unwrap().unwrap();
    assert_eq!((read.int32("A"), read.int32("B")), (Some(2), Some(1)));

    let third = table.replace(&Entity::new("p", "r").with("A", 4), Condition::Match(second)).await.unwrap();
    let read = table.get("p", "r", &[]).await.unwrap().unwrap();
    assert_eq!((read.int32("A"), read.int32("B")), (Some(4), None));

    let error = table.delete("p", "r", Condition::Match(first)).await.unwrap_err();
    assert!(error.is_precondition_failed(), "{error}");
    assert!(table.delete("p", "r", Condition::Match(third)).await.unwrap());
    assert!(!table.delete("p", "r", Condition::Any).await.unwrap());

    for condition in [Condition::Any, Condition::Match(ETag("W/\"datetime'2026-01-01T00%3A00%3A00.0000000Z'\"".to_owned()))] {
        let error = table.replace(&entity, condition.clone()).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::NotFound, "{error}");
        assert_eq!(table.merge(&entity, condition).await.unwrap_err().kind(), StorageErrorKind::NotFound);
    }
    table.merge(&Entity::new("p", "r").with("A", 5), Condition::Upsert).await.unwrap();
    table.replace(&Entity::new("p", "s").with("A", 6), Condition::Upsert).await.unwrap();
    assert_eq!(all(&table, Query::default()).await.0.len(), 2);
}

#[tokio::test]
async fn a_missing_row_is_not_a_missing_table() {
    let missing = storage().table(&unique("Missing"));
    let existing = table().await;
    assert_eq!(existing.get("p", "r", &[]).await.unwrap(), None);
    assert!(!existing.delete("p", "r", Condition::Any).await.unwrap());

    let entity = Entity::new("p", "r");
    let errors = [
        missing.get("p", "r", &[]).await.unwrap_err(),
        missing.insert(&entity).await.unwrap_err(),
        missing.merge(&entity, Condition::Any).await.unwrap_err(),
        missing.replace(&entity, Condition::Upsert).await.unwrap_err(),
        missing.delete("p", "r", Condition::Any).await.unwrap_err(),
        missing.query(&Query::default()).await.unwrap_err(),
        missing.transaction(&[Operation::Insert(entity.clone())]).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), StorageErrorKind::ContainerNotFound, "{error}");
        assert_eq!(error.code(), Some("TableNotFound"), "{error}");
    }
}

#[tokio::test]
async fn pages_lead_to_all_rows() {
    let table = table().await;
    for batch in 0..11 {
        let operations: Vec<Operation> = (0..100)
            .map(|row| Operation::Insert(Entity::new("it's a+b %", format!("{:04} '", batch * 100 + row)).with("Number", row)))
            .collect();
        assert!(table.transaction(&operations).await.unwrap().iter().all(Option::is_some));
    }
    let (entities, pages) = all(&table, Query::default()).await;
    assert_eq!((entities.len(), pages), (1100, 2));
    assert!(entities.is_sorted_by(|a, b| a.row_key < b.row_key));

    let query = Query { filter: Some("Number ge 90".to_owned()), select: vec!["Number".to_owned()], top: Some(7), ..Query::default() };
    let (entities, pages) = all(&table, query).await;
    assert_eq!(entities.len(), 110);
    assert!(pages >= 16, "{pages}");
    assert!(entities.iter().all(|entity| entity.partition_key == "it's a+b %" && !entity.row_key.is_empty() && entity.columns.len() == 1));

    let page = table.query(&Query::default()).await.unwrap();
    assert!(Time::now().since(page.date.unwrap()).as_secs() < 60);
}

#[tokio::test]
async fn transactions_apply_all_or_nothing() {
    let table = table().await;
    let row = |key: &str| Entity::new("p", key).with("Key", key).with("When", Time::now());
    table.insert(&row("replaced")).await.unwrap();
    let merged = table.insert(&row("merged").with("Kept", true)).await.unwrap();
    table.insert(&row("deleted")).await.unwrap();
    let results = table
        .transaction(&[
            Operation::Insert(row("it's new")),
            Operation::Replace(row("replaced"), Condition::Any),
            Operation::Merge(row("merged"), Condition::Match(merged.clone())),
            Operation::Merge(row("upserted"), Condition::Upsert),
            Operation::Delete { partition_key: "p".to_owned(), row_key: "deleted".to_owned(), condition: Condition::Any },
        ])
        .await
        .unwrap();
    assert_eq!(results.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, true, true, false]);
    let (entities, _) = all(&table, Query::default()).await;
    assert_eq!(entities.iter().map(|entity| entity.row_key.as_str()).collect::<Vec<_>>(), ["it's new", "merged", "replaced", "upserted"]);
    assert_eq!(entities[0].etag, results[0]);
    assert_eq!(entities[1].boolean("Kept"), Some(true));

    let stale = [Operation::Insert(row("other")), Operation::Merge(row("merged"), Condition::Match(merged))];
    let error = table.transaction(&stale).await.unwrap_err();
    assert!(error.is_precondition_failed(), "{error}");
    assert_eq!(error.failed_operation(), Some(1), "{error}");

    let delete = |key: &str| Operation::Delete { partition_key: "p".to_owned(), row_key: key.to_owned(), condition: Condition::Any };
    let error = table.transaction(&[delete("merged"), delete("replaced"), delete("gone")]).await.unwrap_err();
    assert_eq!((error.kind(), error.failed_operation()), (StorageErrorKind::NotFound, Some(2)), "{error}");

    let error = table.transaction(&[Operation::Insert(row("merged")), Operation::Insert(row("other"))]).await.unwrap_err();
    assert!(error.is_already_exists(), "{error}");
    assert_eq!(error.failed_operation(), Some(0), "{error}");
    assert_eq!(all(&table, Query::default()).await.0.len(), 4);
}

#[tokio::test]
async fn transactions_beyond_the_limits_are_not_sent() {
    let (recorder, options) = crate::emulator::Recorder::options();
    let storage = durable_taskhub::storage::Storage::new(crate::emulator::account(), options).unwrap();
    let table = storage.table("Anything");
    let many: Vec<Operation> = (0..101).map(|row| Operation::Insert(Entity::new("p", row.to_string()))).collect();
    assert_eq!(table.transaction(&many).await.unwrap_err().kind(), StorageErrorKind::InvalidInput);
    let mixed = [Operation::Insert(Entity::new("p", "r")), Operation::Insert(Entity::new("q", "r"))];
    assert_eq!(table.transaction(&mixed).await.unwrap_err().kind(), StorageErrorKind::InvalidInput);
    let text = "x".repeat(60_000);
    let large: Vec<Operation> =
        (0..80).map(|row| Operation::Insert(Entity::new("p", row.to_string()).with("Text", text.as_str()))).collect();
    assert_eq!(table.transaction(&large).await.unwrap_err().kind(), StorageErrorKind::TooLarge);
    assert_eq!(table.transaction(&[]).await.unwrap(), []);
    assert!(recorder.take().is_empty());
}
