//! An input is text: it arrives in the message, in the row and in blobs as it was given.

use std::time::Duration;

use durable_taskhub::event::EventKind;
use durable_taskhub::inspection::{StartWrites, blob_of_column, blob_url, gunzip, hub, input_of_start, start_writes};
use durable_taskhub::message::{Decoded, Message};
use durable_taskhub::names::{HubName, InstanceId, escape_key};
use durable_taskhub::partition::PartitionCount;
use durable_taskhub::start::{StartError, StartRequest};
use durable_taskhub::storage::{Account, Options, Storage};
use durable_taskhub::{Instance, TaskHub, Time};

use crate::random::Random;

const CONTAINER: &str = "http://127.0.0.1:10000/devstoreaccount1/hub-largemessages";
const LIMIT: u64 = 64 * 1024 * 1024;

fn client() -> TaskHub {
    let account = Account::from_connection_string("UseDevelopmentStorage=true").unwrap();
    let storage = Storage::new(account, Options::default()).unwrap();
    hub(storage, HubName::new("Hub").unwrap(), PartitionCount::DEFAULT)
}

/// The input as an engine finds it in the message, and as readers find it through the row.
fn arrived(writes: &StartWrites) -> (Option<String>, Option<String>) {
    let content = |name: &str| {
        let (_, bytes) = writes.blobs.iter().find(|(known, _)| known == name).unwrap();
        gunzip(bytes, LIMIT).unwrap()
    };
    let message = match Message::decode(&writes.message).unwrap() {
        Decoded::Message(message) => *message,
        Decoded::Wrapper { blob_name } => Message::from_blob(content(&blob_name).as_bytes()).unwrap(),
    };
    let EventKind::ExecutionStarted(started) = message.event.kind else { panic!("no start") };
    let column = writes.row.text("Input").map(str::to_owned);
    let through_row = match (&column, writes.row.text("InputBlobName")) {
        (Some(text), Some(name)) if text.is_empty() => Some(content(name)),
        (Some(text), _) => match blob_of_column(text, CONTAINER) {
            Some(name) => Some(input_of_start(&content(&name)).unwrap()),
            None => column,
        },
        (None, _) => None,
    };
    (started.input, through_row)
}

/// A random JSON text: odd numbers, blanks and escapes where JSON allows them, keys twice and in any order.
fn json(random: &mut Random, depth: usize) -> String {
    let blank = |random: &mut Random| (0..random.below(3)).map(|_| *random.one_of(&[' ', '\n', '\t', '\r'])).collect::<String>();
    let text = |random: &mut Random| {
        let parts: String = (0..random.below(5))
            .map(|_| match random.below(3) {
                0 => (*random.one_of(&["\\u0041", "\\/", "\\ud83d\\ude00", "\\n", "\\\"", "\\u0000", "\\\\"])).to_owned(),
                _ => random.text(4).chars().filter(|character| *character >= ' ' && !"\"\\".contains(*character)).collect(),
            })
            .collect();
        format!("\"{parts}\"")
    };
    let value = match random.below(if depth == 0 { 3 } else { 5 }) {
        0 => (*random.one_of(&["1.10", "1e400", "-0", "0.0", "12345678901234567890", "1E+2", "-1e-999", "3.141592653589793238462643"]))
            .to_owned(),
        1 => (*random.one_of(&["true", "false", "null"])).to_owned(),
        2 => text(random),
        3 => {
            let items: Vec<String> = (0..random.below(4)).map(|_| json(random, depth - 1)).collect();
            format!("[{}]", if items.is_empty() { blank(random) } else { items.join(",") })
        }
        _ => {
            let members: Vec<String> = (0..random.below(4))
                .map(|_| {
                    let name = if random.yes() { "\"$type\"".to_owned() } else { text(random) };
                    format!("{}{name}{}:{}", blank(random), blank(random), json(random, depth - 1))
                })
                .collect();
            format!("{{{}}}", members.join(","))
        }
    };
    format!("{}{value}{}", blank(random), blank(random))
}

#[test]
fn inputs_arrive_byte_for_byte() {
    let hub = client();
    for seed in 0..1_000 {
        let mut random = Random::new(seed);
        let input = json(&mut random, 4);
        let writes = start_writes(&hub, StartRequest { input: Some(input.clone()), ..StartRequest::new("Echo") });
        let writes = writes.unwrap_or_else(|error| panic!("seed {seed}: {error}: {input}"));
        assert_eq!(arrived(&writes), (Some(input.clone()), Some(input)), "seed {seed}");
    }
}

#[test]
fn inputs_of_every_size_arrive_byte_for_byte() {
    let hub = client();
    let mut ways = std::collections::BTreeSet::new();
    for filler in ["x", "\u{85}", "é", "😀", "\\u00e9", "\\\""] {
        for length in [0, 100, 29_000, 30_716, 30_717, 30_718, 30_719, 30_720, 45_000, 46_000, 60_000, 400_000] {
            let input = format!("\"{}\"", filler.repeat(length / filler.len()));
            let writes = start_writes(&hub, StartRequest { input: Some(input.clone()), ..StartRequest::new("Echo") }).unwrap();
            // 64 KiB of UTF-16 is the service's limit for a column, 64 KiB of text the one for a message.
            assert!(writes.row.text("Input").unwrap().encode_utf16().count() <= 30 * 1024);
            assert!(writes.message.len() <= 64 * 1024);
            ways.insert((writes.blobs.len(), writes.row.text("InputBlobName").is_some()));
            assert_eq!(arrived(&writes), (Some(input.clone()), Some(input)), "{filler} {length}");
        }
    }
    assert_eq!(ways.into_iter().collect::<Vec<_>>(), [(0, false), (1, false), (1, true)], "inline, message in a blob, column in a blob");
}

#[test]
fn rows_say_what_messages_say() {
    let hub = client();
    for seed in 0..1_000 {
        let mut random = Random::new(seed);
        let id = random.text(20).replace(|character: char| character.is_control() || "/\\#?@".contains(character), "-");
        let Ok(instance_id) = InstanceId::new(&id) else { continue };
        let tags: Vec<_> = (0..random.below(4)).map(|index| (format!("{}{index}", random.text(4)), random.text(8))).collect();
        let request = StartRequest {
            instance_id,
            version: random.maybe(|random| random.text(5)),
            input: random.maybe(|random| json(random, 2)),
            tags: tags.clone(),
            scheduled_start_time: random.maybe(|_| Time::now().saturating_add(Duration::from_secs(60))),
            columns: vec![("KubernetesOwner".to_owned(), random.text(8))],
            ..StartRequest::new(random.text(8))
        };
        let writes = start_writes(&hub, request.clone()).unwrap();
        assert_eq!(writes.row.partition_key, escape_key(&id));
        let row = Instance::from_row(writes.row, CONTAINER);
        let Ok(Decoded::Message(message)) = Message::decode(&writes.message) else { panic!("seed {seed}") };
        let EventKind::ExecutionStarted(started) = &message.event.kind else { panic!("seed {seed}") };
        assert_eq!(
            (row.id.as_str(), message.instance_id.as_str(), started.instance.instance_id.as_str()),
            (&*id, &*id, &*id),
            "seed {seed}"
        );
        assert_eq!((row.execution_id.as_ref(), message.execution_id.as_ref()), (Some(&request.execution_id), Some(&request.execution_id)));
        assert_eq!((&row.name, &started.name), (&request.name, &request.name), "seed {seed}");
        assert_eq!((&row.version, &started.version), (&request.version, &request.version), "seed {seed}");
        assert_eq!((&row.tags, started.tags.as_ref().unwrap_or(&Vec::new())), (&tags, &tags), "seed {seed}");
        assert_eq!(row.created_time, Some(message.event.timestamp), "seed {seed}");
        assert_eq!((row.scheduled_start_time, started.scheduled_start_time), (request.scheduled_start_time, request.scheduled_start_time));
        assert_eq!(row.column("KubernetesOwner"), Some(request.columns[0].1.as_str()), "seed {seed}");
    }
}

#[test]
fn tags_that_a_json_object_cannot_hold_are_refused() {
    let hub = client();
    let tag = |name: &str| (name.to_owned(), "x".to_owned());
    for tags in [vec![tag("$type")], vec![tag("a"), tag("$ref")], vec![tag("a"), tag("b"), tag("a")]] {
        let refused = start_writes(&hub, StartRequest { tags, ..StartRequest::new("Echo") });
        assert!(matches!(refused, Err(StartError::InvalidTag { .. })), "{refused:?}");
    }
    assert!(start_writes(&hub, StartRequest { tags: vec![tag("$other"), tag("A"), tag("a")], ..StartRequest::new("Echo") }).is_ok());
}

#[test]
fn what_is_no_json_is_refused() {
    let hub = client();
    for seed in 0..1_000 {
        let mut random = Random::new(seed);
        let (mut input, other) = (json(&mut random, 3), random.character());
        let at = random.below(input.chars().count() + 1);
        input = input.chars().take(at).chain([other]).chain(input.chars().skip(at + 1)).collect();
        match start_writes(&hub, StartRequest { input: Some(input.clone()), ..StartRequest::new("Echo") }) {
            Ok(writes) => assert_eq!(arrived(&writes), (Some(input.clone()), Some(input)), "seed {seed}"),
            Err(error) => assert!(matches!(error, StartError::InvalidInput(_)), "seed {seed}: {error}"),
        }
    }
    for input in ["", " ", "{", "1 2", "'a'", "{a:1}", "[1,]", "NaN", "01", "\u{feff}1", "\"\u{1}\"", "+1", ".5", "// x\n1"] {
        let refused = start_writes(&hub, StartRequest { input: Some(input.to_owned()), ..StartRequest::new("Echo") });
        assert!(matches!(refused, Err(StartError::InvalidInput(_))), "{input:?}");
    }
}

#[test]
fn names_of_blobs_survive_the_url_in_the_column() {
    let hub = client();
    for seed in 0..4_000 {
        let name = Random::new(seed).text(16) + "/x";
        assert_eq!(blob_of_column(&blob_url(&hub, &name), CONTAINER), Some(name), "seed {seed}");
    }
}
