//! Lists and counts: filters, pages and tokens.

use base64::Engine as _;
use durable_taskhub::list::{Filter, ListError, ListOptions};
use durable_taskhub::storage::{Condition, Entity};
use durable_taskhub::{RuntimeStatus, Time};

use crate::support::{World, counted};

async fn ids(world: &World, filter: Filter) -> Vec<String> {
    let options = ListOptions { filter, ..ListOptions::default() };
    world.hub.list(&options).await.unwrap().instances.into_iter().map(|instance| instance.id).collect()
}

#[tokio::test]
async fn filters_find_what_they_say() {
    let world = World::new().await;
    // The emulator compares milliseconds, the service 100 ns.
    let time = |text: &str| Time::parse(text).unwrap();
    world.instance_of("it's-1", "Completed", 0, "It's", time("2026-01-01T00:00:00Z")).await;
    world.instance_of("it's-2", "Failed", 0, "Echo", time("2026-01-02T00:00:00Z")).await;
    world.instance_of("a/1", "Running", 0, "Echo", time("2026-01-03T00:00:00.001Z")).await;
    world.instance_of("a0", "Running", 0, "Echo", time("2026-01-04T00:00:00Z")).await;
    world.instance_of("日本\t語", "Pending", 0, "Echo", time("2026-01-05T00:00:00Z")).await;
    world.instance_of("@counter@k", "Running", 0, "@counter@k", time("2026-01-06T00:00:00Z")).await;
    let tags = Entity::new("a0", "").with("Tags", r#"{"team":"it's","n":"1"}"#);
    world.table("Instances").merge(&tags, Condition::Any).await.unwrap();

    let all = Filter { entities: true, ..Filter::default() };
    assert_eq!(ids(&world, all.clone()).await.len(), 6);
    let without_entities = ids(&world, Filter::default()).await;
    assert_eq!(without_entities, ["a0", "a/1", "it's-1", "it's-2", "日本\t語"]);
    for (filter, expected) in [
        (Filter { id_prefix: "it's".into(), ..all.clone() }, vec!["it's-1", "it's-2"]),
        (Filter { id_prefix: "a/".into(), ..all.clone() }, vec!["a/1"]),
        (Filter { id_prefix: "日本\t".into(), ..all.clone() }, vec!["日本\t語"]),
        (Filter { id_prefix: "@".into(), ..Filter::default() }, vec!["@counter@k"]),
        (Filter { name: Some("It's".into()), ..all.clone() }, vec!["it's-1"]),
        (Filter { statuses: vec![RuntimeStatus::Failed, RuntimeStatus::Pending], ..all.clone() }, vec!["it's-2", "日本\t語"]),
        (Filter { created_from: Some(time("2026-01-03T00:00:00.001Z")), ..Filter::default() }, vec!["a0", "a/1", "日本\t語"]),
        (Filter { created_from: Some(time("2026-01-03T00:00:00.002Z")), ..Filter::default() }, vec!["a0", "日本\t語"]),
        (Filter { created_to: Some(time("2026-01-01T00:00:00Z")), ..all.clone() }, vec!["it's-1"]),
        (Filter { updated_from: Some(time("2026-01-06T00:00:00Z")), ..all.clone() }, vec!["@counter@k"]),
        (Filter { updated_to: Some(time("2026-01-01T00:00:00Z")), ..Filter::default() }, vec!["it's-1"]),
        (Filter { tags: vec![("team".into(), "it's".into())], ..all.clone() }, vec!["a0"]),
        (Filter { tags: vec![("team".into(), "it's".into()), ("n".into(), "2".into())], ..all.clone() }, vec![]),
        (Filter { id_prefix: "' or PartitionKey ne '".into(), ..all.clone() }, vec![]),
    ] {
        assert_eq!(ids(&world, filter.clone()).await, expected, "{filter:?}");
    }

    let counts = world.hub.counts(&Filter::default(), 10).await.unwrap();
    assert!(counts.complete);
    let of = [RuntimeStatus::Running, RuntimeStatus::Completed, RuntimeStatus::Terminated].map(|status| counts.of(status));
    assert_eq!((of, counts.total()), ([2, 1, 0], 5));
}

#[tokio::test]
async fn a_page_is_one_request_and_its_token_leads_on_in_either_line_s_form() {
    let world = World::new().await;
    for number in 0..7 {
        world.instance(&format!("li-{number}"), "Completed", 0).await;
    }
    let (proxy, hub) = world.proxied().await;
    let mut options = ListOptions { page_size: 3, show_input: false, ..ListOptions::default() };
    let mut found = Vec::new();
    for page_number in 1..=3 {
        let page = hub.list(&options).await.unwrap();
        assert_eq!(counted(&proxy.requests()), format!("{page_number} GET Table"));
        assert!(page.instances.iter().all(|instance| instance.input.is_none() && instance.etag.is_some()));
        found.extend(page.instances.into_iter().map(|instance| instance.id));
        options.continuation = page.continuation.clone();
        if page_number == 1 {
            // The same place as engine 1.x's clients write it.
            let token = page.continuation.unwrap();
            let (partition_key, row_key) = token.rsplit_once(' ').unwrap();
            let json =
                serde_json::json!({"NextPartitionKey": partition_key, "NextRowKey": row_key, "NextTableName": null, "TargetLocation": 0});
            options.continuation = Some(base64::engine::general_purpose::STANDARD.encode(json.to_string()));
        }
    }
    assert_eq!(found, (0..7).map(|number| format!("li-{number}")).collect::<Vec<_>>());
    assert_eq!(options.continuation, None);
    assert!(proxy.requests().iter().all(|request| !request.query.contains("Input")));

    let with_input = hub.list(&ListOptions { page_size: 1, ..ListOptions::default() }).await.unwrap();
    assert_eq!(with_input.instances[0].input.as_ref().and_then(|input| input.inline()), Some("\"the input\""));
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_and_not_sent() {
    let world = World::new().await;
    let (proxy, hub) = world.proxied().await;
    for page_size in [0, 1001] {
        let error = hub.list(&ListOptions { page_size, ..ListOptions::default() }).await.unwrap_err();
        assert!(matches!(error, ListError::PageSize(_)), "{error}");
    }
    let error = hub.list(&ListOptions { continuation: Some("a\nb".to_owned()), ..ListOptions::default() }).await.unwrap_err();
    assert!(matches!(error, ListError::InvalidToken), "{error}");
    let filter = Filter { id_prefix: "x".repeat(600), ..Filter::default() };
    assert!(matches!(hub.list(&ListOptions { filter, ..ListOptions::default() }).await, Err(ListError::TooLong(_))));
    assert_eq!(proxy.requests().len(), 0);
}

#[tokio::test]
async fn columns_of_others_are_listed_on_demand() {
    let world = World::new().await;
    world.instance("owned", "Completed", 0).await;
    world.table("Instances").merge(&Entity::new("owned", "").with("KubernetesOwner", "n/o/u"), Condition::Any).await.unwrap();
    let options = ListOptions { columns: vec!["KubernetesOwner".to_owned()], ..ListOptions::default() };
    let page = world.hub.list(&options).await.unwrap();
    assert_eq!(page.instances[0].column("KubernetesOwner"), Some("n/o/u"));
}
