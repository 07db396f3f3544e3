//! Inputs and outputs: what goes in comes out, or the object says why not.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{find, inline};
use crate::support::World;

impl World {
    /// `kubectl create`, with the text of the input as it stands: client-side apply drops members that are null.
    fn echo(&self, name: &str, text: &str) {
        let object = format!(
            r#"{{"apiVersion":"durable-operator.dev/v1alpha1","kind":"Orchestration","metadata":{{"name":"{name}"}},
            "spec":{{"taskHubRef":{{"name":"hub"}},"functionName":"Echo","input":{{"value":{text}}}}}}}"#
        );
        let arguments = ["create", "--namespace", &self.namespace, "--filename=-"];
        let answer = self.control_plane.with(|plane| plane.kubectl_with_input(&arguments, &object)).unwrap();
        assert!(answer.success, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_json_comes_back_as_it_went_in() {
    let world = World::new("every_kind_of_json").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    let deep = format!("{}1{}", "[".repeat(110), "]".repeat(110));
    let deep_object = format!("{}1{}", "{\"a\":".repeat(130), "}".repeat(130));
    let large = format!("\"{}\"", "0123456789abcdef".repeat(1280));
    let shown = [
        ("object", r#"{"a":1,"b":{"c":[true,null],"d":{}}}"#),
        ("array", r#"[1,"two",3.5,null,[],{}]"#),
        ("string", r#""text""#),
        ("empty", r#""""#),
        ("number", "42"),
        ("fraction", "0.1"),
        ("boolean", "false"),
        ("unicode", r#""ünïcödé 日本語 😀""#),
        ("html", r#"{"<&>":"<a href=\"x\">&amp;</a>"}"#),
        ("escapes", r#""\\u003c is text, \"quoted\"\n\tand more""#),
        ("greatest", "9223372036854775807"),
        ("least", "-9223372036854775808"),
        ("beyond-double", "9007199254740993"),
    ];
    let referred = [("deep", deep.as_str()), ("deep-object", deep_object.as_str()), ("large", large.as_str())];
    for (name, text) in shown.iter().chain(&referred) {
        world.echo(name, text);
    }
    world.echo("none", "null");
    for (name, text) in shown {
        let status = world.reason(name, "Completed").await;
        let output = status.output.as_ref().unwrap_or_else(|| panic!("{name}: {status:?}"));
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(parse(output.text()), parse(text), "{name}");
        assert!(status.output_ref.is_none());
        let instance = world.instance(&status.instance_id.unwrap()).await.unwrap();
        assert_eq!(inline(instance.input.as_ref()), Some(text), "{name}");
        assert_eq!(inline(instance.output.as_ref()), Some(text), "{name}");
    }
    for (name, text) in referred {
        let status = world.reason(name, "Completed").await;
        assert!(status.output.is_none(), "{name}");
        let reference = status.output_ref.unwrap();
        assert_eq!(reference.bytes, i64::try_from(text.len()).unwrap());
        assert_eq!(reference.sha256, hex::encode(Sha256::digest(text.as_bytes())));
        assert_eq!(reference.preview, text[..text.len().min(1024)]);
        let instance = world.instance(&status.instance_id.unwrap()).await.unwrap();
        assert_eq!(inline(instance.input.as_ref()), Some(text), "{name}");
    }
    let status = world.reason("none", "Completed").await;
    assert!(status.output.is_none() && status.output_ref.is_none() && status.failure.is_none(), "{status:?}");
    assert_eq!(world.instance(&status.instance_id.unwrap()).await.unwrap().input, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_ends_with_a_message() {
    let world = World::new("what_cannot_run").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.quick_hub().await;
    // The limit of the hub, 64 KiB unless its TaskHub says otherwise, counts bytes of UTF-8.
    for (name, input, limit) in [
        ("too-long", "x".repeat(65_535), "it has 65537 bytes, and the TaskHub's limits.maxInputBytes is 65536"),
        ("too-wide", "日".repeat(21_845), "it has 65537 bytes"),
    ] {
        world.orchestration(name, "Echo", json!({"instanceId": name, "input": {"value": input}}));
        let status = world.reason(name, "InputTooLarge").await;
        let ready = find(&status, "Ready").unwrap();
        assert!(ready.message.contains(limit) && ready.message.contains("pass a reference"), "{ready:?}");
        assert_eq!(find(&status, "Stalled").unwrap().reason, "InputTooLarge");
        assert!(world.instance(name).await.is_none(), "something was written");
    }
    // Through a column, through a blob of the column, through a blob of the message.
    for (name, length) in [("column", 30_718), ("column-blob", 30_800), ("message-blob", 65_534)] {
        world.orchestration(name, "Echo", json!({"input": {"value": "x".repeat(length)}}));
        assert_eq!(usize::try_from(world.reason(name, "Completed").await.output_ref.unwrap().bytes).unwrap(), length + 2);
    }

    world.orchestration("unknown", "NoSuchFunction", json!({}));
    let status = world.reason("unknown", "OrchestrationFailed").await;
    let failure = status.failure.unwrap();
    assert!(
        failure.message.as_deref().unwrap().contains("'NoSuchFunction' doesn't exist, is disabled, or is not an orchestrator function"),
        "{failure:?}"
    );
    assert!(status.settled);

    world.orchestration("fails", "Fail", json!({"input": {"value": "日".repeat(6000)}}));
    let status = world.reason("fails", "OrchestrationFailed").await;
    let message = status.failure.unwrap().message.unwrap();
    assert!(message.len() > 8000 && message.len() <= 8192 && message.ends_with('日'), "{} bytes", message.len());
}
