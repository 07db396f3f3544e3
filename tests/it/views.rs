//! What kubectl prints, compared with committed text: columns, conditions and Events as a person sees them.
//!
//! With `UPDATE_EXPECTED=1` the committed text is written instead.

use std::path::PathBuf;

use durable_taskhub::names::HubName;
use serde_json::json;

use crate::support::World;

/// `text` with what differs from run to run replaced by a word of the same meaning.
struct Normaliser {
    words: Vec<(String, String)>,
}

impl Normaliser {
    fn normal(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.words {
            text = text.replace(from, to);
        }
        let lines = text.lines().map(|line| match line.split_once("Resource Version:") {
            Some((indentation, _)) => format!("{indentation}Resource Version: NUMBER"),
            None => line.to_owned(),
        });
        let lines = lines.map(|line| line.split(' ').map(varying).collect::<Vec<_>>().join(" "));
        // Widths of columns follow their contents, so blanks are no news beyond the indentation.
        lines.map(|line| squeeze(&line)).collect::<Vec<_>>().join("\n") + "\n"
    }
}

/// One blank-separated word: times, ages and numbers that the API server gives are replaced.
fn varying(word: &str) -> &str {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_age = word.strip_suffix('s').is_some_and(digits)
        || word
            .split_once('m')
            .is_some_and(|(minutes, rest)| digits(minutes) && (rest.is_empty() || rest.strip_suffix('s').is_some_and(digits)));
    let is_time = word.len() >= 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    match word {
        _ if is_time => "TIME",
        _ if is_age => "AGE",
        _ => word,
    }
}

fn squeeze(line: &str) -> String {
    let text = line.trim_start();
    let indentation = &line[..line.len() - text.len()];
    format!("{indentation}{}", text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn compare(name: &str, found: &str) {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/it/expected", name].iter().collect();
    if std::env::var_os("UPDATE_EXPECTED").is_some_and(|value| value == "1") {
        std::fs::write(&path, found).unwrap();
        return;
    }
    let expected =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}; write it with UPDATE_EXPECTED=1", path.display()));
    assert_eq!(found, expected, "{} has drifted; if that is wanted, write it anew with UPDATE_EXPECTED=1", path.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demos_objects_look_as_expected() {
    let mut world = World::without_hub("views_of_the_demo").await;
    world.hub_name = HubName::new("DemoHub").unwrap();
    world.create_hub().await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "demo-storage"}, "stringData": {"connectionString": world.connection_string()}
    });
    world.apply(&secret);
    world.kubectl(&["apply", "--filename=tests/demo/hub.yaml"]);
    world.kubectl(&["wait", "--for=condition=WorkersActive", "taskhub/demo", "--timeout=60s"]);
    for name in ["hello", "echo", "fail"] {
        world.kubectl(&["apply", "--filename", &format!("tests/demo/{name}.yaml")]);
    }
    world.kubectl(&["wait", "--for=condition=Complete", "orchestration/hello", "orchestration/echo", "--timeout=60s"]);
    world.kubectl(&["wait", "--for=condition=Failed", "orchestration/fail", "--timeout=60s"]);
    crate::support::eventually("the Event of the failure is there", async || {
        let events = world.kubectl(&["get", "events", "--output=jsonpath={.items[*].reason}"]);
        if events == "OrchestrationFailed" { Ok(()) } else { Err(events) }
    })
    .await;

    let mut words = vec![(world.namespace.clone(), "NAMESPACE".to_owned())];
    for name in ["hello", "echo", "fail"] {
        let object = world.orchestrations().get(name).await.unwrap();
        let status = object.status.unwrap();
        words.push((object.metadata.uid.unwrap(), "UID".to_owned()));
        words.push((status.execution_id.unwrap(), "EXECUTION-ID".to_owned()));
        if let Some(digits) = status.instance_id.unwrap().strip_prefix(&format!("{name}-")).filter(|_| name != "echo") {
            words.push((digits.to_owned(), "DIGITS".to_owned()));
        }
    }
    let normaliser = Normaliser { words };
    for (file, arguments) in [
        ("get-orchestrations.txt", &["get", "orchestrations"][..]),
        ("get-orchestrations-wide.txt", &["get", "orchestrations", "--output=wide"]),
        ("get-taskhubs.txt", &["get", "taskhubs"]),
        ("get-taskhubs-wide.txt", &["get", "taskhubs", "--output=wide"]),
        ("describe-hello.txt", &["describe", "orchestration", "hello"]),
        ("describe-fail.txt", &["describe", "orchestration", "fail"]),
    ] {
        compare(file, &normaliser.normal(&world.kubectl(arguments)));
    }
}
