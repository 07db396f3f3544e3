//! Messages and rows hold what was put into them, with the escaping of the .NET clients.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventKind};
use durable_taskhub::inspection::{row, row_text};
use durable_taskhub::message::{Decoded, MAX_INLINE_BYTES, Message, Sender};
use durable_taskhub::names::escape_key;

use crate::events::{KINDS, event};
use crate::random::Random;

fn decode(text: &str) -> Message {
    match Message::decode(text) {
        Ok(Decoded::Message(message)) => *message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_of_every_kind_survive_encoding() {
    let mut seen = BTreeSet::new();
    for seed in 0..1_500_u64 {
        let mut random = Random::new(seed);
        let event = event(random.below(KINDS), &mut random);
        seen.insert(event.kind.event_type().to_owned());
        let execution = random.maybe(|random| random.text(8));
        let mut message = Message::new(&random.text(12), execution.as_deref(), event, random.next().cast_signed());
        message.episode = random.maybe(|_| 7);
        message.trace_context = random.maybe(|random| random.text(8));
        message.execution_tags = random.maybe(|random| vec![("a".to_owned(), random.text(8)), ("b".to_owned(), random.text(8))]);
        message.sender = Some(Sender { instance_id: random.maybe(|random| random.text(8)), execution_id: None });
        let text = message.encode().unwrap();
        assert_eq!(decode(&text), message, "seed {seed}");
        // Base64 and JSON say the same, and a blob too.
        assert_eq!(STANDARD.decode(&text).unwrap(), message.to_json().into_bytes(), "seed {seed}");
        assert_eq!(decode(&message.to_json()), message, "seed {seed}");
        assert_eq!(Message::from_blob(message.to_json().as_bytes()), Ok(message), "seed {seed}");
    }
    assert_eq!(seen.len(), KINDS);
}

/// What rows do not keep (task-hub.md 5.4).
fn as_stored(mut event: Event) -> Event {
    match &mut event.kind {
        EventKind::TaskScheduled { input, .. } | EventKind::SubOrchestrationInstanceCreated { input, .. } => *input = None,
        _ => {}
    }
    event
}

#[test]
fn rows_of_every_kind_survive_the_way_to_the_service_and_back() {
    for seed in 0..1_500_u64 {
        let mut random = Random::new(seed);
        let event = event(random.below(KINDS), &mut random);
        let written = event.to_row(&escape_key(&random.text(12)), random.next(), "E");
        let read = row(row_text(&written).as_bytes()).unwrap();
        assert_eq!(read, written, "seed {seed}");
        assert_eq!(Event::from_row(&read).unwrap(), as_stored(event), "seed {seed}");
    }
}

/// How Newtonsoft.Json 13 writes the character into a text, from its documentation and the recordings (task-hub.md 3.3).
fn newtonsoft(character: char) -> String {
    match character {
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        '\u{8}' => "\\b".to_owned(),
        '\t' => "\\t".to_owned(),
        '\n' => "\\n".to_owned(),
        '\u{c}' => "\\f".to_owned(),
        '\r' => "\\r".to_owned(),
        '\0'..='\u{1f}' | '\u{85}' | '\u{2028}' | '\u{2029}' => format!("\\u{:04x}", u32::from(character)),
        other => other.to_string(),
    }
}

#[test]
fn each_character_is_escaped_as_in_the_original() {
    let all: Vec<char> = (0..=0xFFFF).filter_map(char::from_u32).chain(['\u{10000}', '\u{1f600}', '\u{10ffff}']).collect();
    // In parts that fit into a queue; each character between others, so that no fragment is written alone.
    for part in all.chunks(4096) {
        let data: String = part.iter().flat_map(|character| [*character, 'x']).collect();
        let expected: String = part.iter().map(|character| newtonsoft(*character) + "x").collect();
        let kind = EventKind::GenericEvent { data: Some(data.clone()) };
        let message = Message::new(&data, None, Event::new(Time::now(), kind), 1);
        let json = message.to_json();
        let first = part[0];
        assert!(json.contains(&format!("\"Data\":\"{expected}\"")), "data from {first:?} on");
        assert!(json.contains(&format!("\"InstanceId\":\"{expected}\"")), "ID from {first:?} on");
        assert_eq!(Message::from_blob(json.as_bytes()), Ok(message));
    }
}

#[test]
fn a_message_goes_inline_up_to_the_limit_and_not_beyond() {
    let message = |length: usize| {
        let kind = EventKind::GenericEvent { data: Some("\u{85}".repeat(length % 7) + &"x".repeat(length)) };
        Message::new("i", None, Event::new(Time::parse("2026-01-01T00:00:00Z").unwrap(), kind), 1)
    };
    for length in (MAX_INLINE_BYTES - 800..MAX_INLINE_BYTES).step_by(31) {
        let message = message(length);
        let json = message.to_json().len();
        match message.encode() {
            Ok(text) => assert!(json <= MAX_INLINE_BYTES && decode(&text) == message),
            Err(error) => assert!(json > MAX_INLINE_BYTES && error.bytes == json),
        }
    }
}
