//! Everything recorded is read and written again without loss: messages byte for byte, rows column for column.
//!
//! Exceptions, which are the older line's and known (task-hub.md 5.4, version matrix): its rows have no column where the newer
//! line has the text `null`, its failures no `Properties`, and its messages lack `GenerateNewTrace`. Our client writes the newer form. Rows that a rewind
//! rewrote keep the columns of the event that they were.

use base64::Engine as _;
use durable_bed::recording::{Recording, Row, Snapshot, Step, entity};
use durable_taskhub::event::{Event, EventError};
use durable_taskhub::message::{Decoded, Message};
use durable_taskhub::storage::{Entity, Value};

#[test]
fn everything_recorded_is_read_and_written_without_loss() {
    let (mut messages, mut rows, mut wrong) = (0, 0, Vec::new());
    for file in super::recordings() {
        let recording = Recording::read(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let older = name.contains("1x");
        for snapshot in recording.steps.iter().filter_map(|step| match step {
            Step::Snapshot(snapshot) => Some(snapshot),
            _ => None,
        }) {
            for text in texts(snapshot) {
                messages += 1;
                if let Err(why) = message(&text, older) {
                    wrong.push(format!("{name}, {}: {why}", snapshot.label));
                }
            }
            for row in snapshot.rows("History") {
                rows += 1;
                if let Err(why) = history_row(row, older) {
                    wrong.push(format!("{name}, {}: {why}", snapshot.label));
                }
            }
        }
    }
    println!("{messages} messages and {rows} history rows survive");
    assert!(wrong.is_empty(), "{} are changed:\n{}", wrong.len(), wrong.join("\n"));
    assert!(messages > 0 && rows > 0);
}

/// The JSON of all visible messages and of all blobs that hold one.
fn texts(snapshot: &Snapshot) -> Vec<String> {
    let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    let queued = snapshot.queues.values().flat_map(|queue| &queue.messages).map(|message| match message.text.starts_with('{') {
        true => message.text.clone(),
        false => String::from_utf8(decode(&message.text)).unwrap(),
    });
    let large =
        snapshot.blobs.iter().filter(|(container, _)| container.ends_with("-largemessages")).filter_map(|(_, blobs)| blobs.as_ref());
    let large = large.flatten().filter(|blob| blob.name.contains("/message-")).map(|blob| {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(decode(&blob.base64).as_slice()), &mut text).unwrap();
        text
    });
    queued.chain(large).collect()
}

fn message(text: &str, older: bool) -> Result<(), String> {
    let bytes = text.len();
    let written = if bytes > durable_taskhub::message::MAX_TEXT_BYTES {
        Message::from_blob(text.as_bytes()).map_err(|error| error.to_string())?.to_json()
    } else {
        match Message::decode(text).map_err(|error| format!("{error}: {}", &text[..text.floor_char_boundary(200)]))? {
            Decoded::Message(message) => message.to_json(),
            Decoded::Wrapper { blob_name } => Message::wrapper_json(&blob_name),
        }
    };
    // The type name of the host's dictionary, which we leave out (deviations.rs).
    let text = &text.replace(crate::deviations::TAGS_TYPE, "");
    // The newest member, which the older line does not have.
    let written = if older { written.replace(r#""GenerateNewTrace":false,"#, "") } else { written };
    if written == *text { Ok(()) } else { Err(format!("\n  {}\n  {}", cut(text), cut(&written))) }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(900)]
}

fn history_row(row: &Row, older: bool) -> Result<(), String> {
    let recorded = entity(row)?;
    if recorded.row_key == "sentinel" || is_rewound(&recorded) {
        return Ok(());
    }
    let event = match Event::from_row(&recorded) {
        Ok(event) => event,
        // Its value lies in a blob, which the history resolves before it reads the event.
        Err(EventError::LargeValue(_)) => return Ok(()),
        Err(error) => return Err(format!("{}: {error}", recorded.row_key)),
    };
    let ordinal = u64::from_str_radix(&recorded.row_key, 16).map_err(|error| error.to_string())?;
    let mut written = event.to_row(&recorded.partition_key, ordinal, recorded.text("ExecutionId").unwrap_or_default());
    if older {
        let of_the_newer_line = |name: &str, value: &Value| {
            let is_null = *value == Value::String("null".to_owned());
            name == "GenerateNewTrace" || is_null && ["ParentInstance", "Tags", "ParentTraceContext", "FailureDetails"].contains(&name)
        };
        if let Some(Value::String(details)) = written.columns.get_mut("FailureDetails") {
            *details = details.replace(r#","Properties":null"#, "");
        }
        written.columns.retain(|name, value| recorded.columns.contains_key(name) || !of_the_newer_line(name, value));
    }
    if written.columns == recorded.columns {
        Ok(())
    } else {
        Err(format!("{}\n  {:?}\n  {:?}", recorded.row_key, recorded.columns, written.columns))
    }
}

fn is_rewound(row: &Entity) -> bool {
    row.text("Reason").is_some_and(|reason| reason.starts_with("Rewound: "))
}
