//! Decoders over damaged recordings: an answer or an error, in time, and nothing larger than what came in.
//!
//! `unsafe` is forbidden here, and with it an allocator that counts. The bounds are those that can be seen: the size of what
//! comes out, and the time, since memory without bound cannot be filled in none.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use durable_bed::recording::{Recording, Step, entity};
use durable_taskhub::event::Event;
use durable_taskhub::inspection::{blob_of_column, continuation_token, gunzip, input_of_start, row, row_text};
use durable_taskhub::message::{Decoded, MAX_TEXT_BYTES, Message};
use durable_taskhub::names::{HubName, InstanceId};
use durable_taskhub::payload::PayloadError;
use durable_taskhub::storage::{Account, Service};
use durable_taskhub::{Instance, Time};

use crate::events::time;
use crate::mutation::damaged;
use crate::random::Random;

/// No decoder may take longer for one input. Unoptimised code on a busy machine takes some 10 ms for the largest ones.
const MOST_TIME: Duration = Duration::from_secs(3);
/// Inputs that are damaged are cut from recordings up to this size; larger ones differ in their filler alone.
const MOST_BYTES: usize = 16 * 1024;
const CONTAINER: &str = "http://127.0.0.1:10000/devstoreaccount1/hub-largemessages";

/// What all recordings hold, each text once per recording.
#[derive(Default)]
struct Corpus {
    messages: Vec<String>,
    /// As the table service would send them.
    rows: Vec<String>,
    blobs: Vec<Vec<u8>>,
    recordings: usize,
}

static CORPUS: LazyLock<Corpus> = LazyLock::new(|| {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/hub");
    let mut corpus = Corpus::default();
    for file in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        // The others hold thousands of rows that are alike, and parsing them takes longer than all else here.
        if std::fs::metadata(&file).unwrap().len() > 100_000 {
            continue;
        }
        let recording = Recording::read(&file).unwrap();
        corpus.recordings += 1;
        let (mut messages, mut rows, mut blobs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for step in &recording.steps {
            let Step::Snapshot(snapshot) = step else { continue };
            for message in snapshot.queues.values().flat_map(|queue| &queue.messages) {
                messages.insert(message.text.clone(), ());
            }
            for recorded in snapshot.rows("History").iter().chain(snapshot.rows("Instances")) {
                rows.insert(row_text(&entity(recorded).unwrap()), ());
            }
            for blob in snapshot.blobs.values().flatten().flatten() {
                blobs.insert(blob.name.clone(), STANDARD.decode(&blob.base64).unwrap());
            }
        }
        corpus.messages.extend(messages.into_keys());
        corpus.rows.extend(rows.into_keys());
        corpus.blobs.extend(blobs.into_values().filter(|bytes| bytes.starts_with(&[0x1f, 0x8b])));
    }
    corpus
});

/// How often each part of the corpus is damaged; no part is left out.
fn rounds(parts: usize, total: u64) -> u64 {
    total.div_ceil(parts as u64)
}

/// Runs a decoder, and judges its time.
fn timed<T>(what: &str, input: &[u8], decode: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = decode();
    let elapsed = begin.elapsed();
    assert!(
        elapsed < MOST_TIME,
        "{what} took {elapsed:?} for {} bytes: {}",
        input.len(),
        String::from_utf8_lossy(input).chars().take(500).collect::<String>()
    );
    result
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Whatever is read can be written, is not larger than what it was read from, and reads the same again.
fn check_message(read: Result<Decoded, durable_taskhub::message::MessageError>, input: &[u8], seed: u64) -> bool {
    match read {
        Ok(Decoded::Message(message)) => {
            let json = message.to_json();
            // The envelope that .NET writes has 1 KiB; an escaped character has 6 bytes for one.
            assert!(json.len() <= 6 * input.len() + 2048, "seed {seed}: {} bytes became {}", input.len(), json.len());
            assert_eq!(Message::from_blob(json.as_bytes()).as_ref(), Ok(&*message), "seed {seed}: {json}");
            true
        }
        Ok(Decoded::Wrapper { blob_name }) => {
            assert!(!blob_name.is_empty() && blob_name.len() <= input.len(), "seed {seed}");
            true
        }
        Err(error) => {
            assert!(error.to_string().len() < 2000, "seed {seed}: {error}");
            false
        }
    }
}

#[test]
fn recordings_are_read_undamaged() {
    let corpus = &*CORPUS;
    assert!(corpus.recordings > 20 && corpus.messages.len() > 20 && corpus.rows.len() > 200, "{}", corpus.recordings);
    for text in &corpus.messages {
        assert!(Message::decode(text).is_ok(), "{text}");
    }
    for text in &corpus.rows {
        let row = row(text.as_bytes()).unwrap();
        let large = row.columns.keys().any(|name| name.ends_with("BlobName"));
        assert!(large || row.row_key.is_empty() || row.row_key == "sentinel" || Event::from_row(&row).is_ok(), "{text}");
    }
}

#[test]
fn damaged_messages() {
    let messages: Vec<String> = CORPUS.messages.iter().filter(|text| text.len() < MOST_BYTES).cloned().collect();
    let (mut read, mut refused) = (0, 0);
    for (index, text) in messages.iter().enumerate() {
        let json = if text.starts_with('{') { text.clone().into_bytes() } else { STANDARD.decode(text).unwrap() };
        for round in 0..rounds(messages.len(), 3_000) {
            let seed = index as u64 * 100_000 + round;
            let mut random = Random::new(seed);
            let other = random.one_of(&messages).clone();
            let bytes = damaged(&json, other.as_bytes(), &mut random);
            let results = match random.below(3) {
                // Damaged before the transport encoding, after it, or raw; a blob in each case.
                0 => timed("decode", &bytes, || Message::decode(&STANDARD.encode(&bytes))),
                1 => {
                    let encoded = damaged(STANDARD.encode(&json).as_bytes(), other.as_bytes(), &mut random);
                    let encoded = String::from_utf8_lossy(&encoded).into_owned();
                    timed("decode", encoded.as_bytes(), || Message::decode(&encoded))
                }
                _ => timed("decode", &bytes, || Message::decode(&String::from_utf8_lossy(&bytes))),
            };
            *if check_message(results, &[&bytes[..], &json].concat(), seed) { &mut read } else { &mut refused } += 1;
            let blob = timed("from_blob", &bytes, || Message::from_blob(&bytes));
            check_message(blob.map(|message| Decoded::Message(Box::new(message))), &bytes, seed);
            let _ = timed("input_of_start", &bytes, || input_of_start(&String::from_utf8_lossy(&bytes)));
        }
    }
    assert!(read > 100 && refused > 100, "damage is to hit and to miss: {read} read, {refused} refused");
}

#[test]
fn messages_beyond_all_measure() {
    let long = "A".repeat(MAX_TEXT_BYTES + 1);
    assert!(Message::decode(&long).is_err() && Message::decode(&format!("{{{long}")).is_err());
    for opening in ["[", "{\"Event\":", "{\"TaskMessage\":", "{\"FailureDetails\":{\"InnerFailure\":"] {
        let text = opening.repeat(60_000 / opening.len());
        assert!(timed("decode", text.as_bytes(), || Message::decode(&text)).is_err());
        let text = opening.repeat(4_000_000 / opening.len());
        assert!(timed("from_blob", text.as_bytes(), || Message::from_blob(text.as_bytes())).is_err());
    }
}

#[test]
fn damaged_rows() {
    let rows: Vec<String> = CORPUS.rows.iter().filter(|text| text.len() < MOST_BYTES).cloned().collect();
    let (mut read, mut refused) = (0, 0);
    for (index, text) in rows.iter().enumerate() {
        for round in 0..rounds(rows.len(), 4_000) {
            let seed = index as u64 * 100_000 + round;
            let mut random = Random::new(seed);
            let other = random.one_of(&rows).clone();
            let bytes = damaged(text.as_bytes(), other.as_bytes(), &mut random);
            let mut damaged_row = timed("row", &bytes, || row(&bytes));
            if damaged_row.is_none() {
                // The JSON is broken: damage a column instead, so that what lies behind is reached.
                let mut whole = row(text.as_bytes()).unwrap();
                let names: Vec<String> = whole.columns.keys().cloned().collect();
                let column = random.one_of(&names);
                if let Some(value) = whole.text(column).map(str::to_owned) {
                    let broken = damaged(value.as_bytes(), other.as_bytes(), &mut random);
                    whole.set(column, String::from_utf8_lossy(&broken).into_owned());
                } else {
                    whole.set(column, random.text(5));
                }
                damaged_row = Some(whole);
            }
            let Some(damaged_row) = damaged_row else { continue };
            match timed("from_row", &bytes, || Event::from_row(&damaged_row)) {
                Ok(event) => {
                    let execution = damaged_row.text("ExecutionId").unwrap_or_default();
                    let again = event.to_row(&damaged_row.partition_key, 0, execution);
                    // A value that stands in no text of ours, such as the properties of a failure, reads the same again.
                    assert_eq!(Event::from_row(&again).as_ref(), Ok(&event), "seed {seed}");
                    read += 1;
                }
                Err(error) => {
                    assert!(error.to_string().len() < 65_536, "seed {seed}");
                    refused += 1;
                }
            }
            timed("instance", &bytes, || Instance::from_row(damaged_row, CONTAINER));
        }
    }
    assert!(read > 100 && refused > 100, "{read} read, {refused} refused");
}

#[test]
fn damaged_blobs() {
    let mut blobs: Vec<Vec<u8>> = CORPUS.blobs.iter().filter(|bytes| bytes.len() < MOST_BYTES).cloned().collect();
    blobs.extend(CORPUS.messages.iter().take(20).map(|text| zipped(text.as_bytes())));
    const LIMIT: u64 = 256 * 1024;
    let (mut read, mut refused) = (0, 0);
    for (index, blob) in blobs.iter().enumerate() {
        for round in 0..rounds(blobs.len(), 1_500) {
            let seed = index as u64 * 100_000 + round;
            let mut random = Random::new(seed);
            let other = random.one_of(&blobs).clone();
            let bytes = damaged(blob, &other, &mut random);
            match timed("gunzip", &bytes, || gunzip(&bytes, LIMIT)) {
                Ok(text) => {
                    assert!(text.len() as u64 <= LIMIT, "seed {seed}");
                    let _ = timed("from_blob", text.as_bytes(), || Message::from_blob(text.as_bytes()));
                    read += 1;
                }
                Err(PayloadError::TooLarge { limit: LIMIT } | PayloadError::Damaged(_)) => refused += 1,
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
    }
    assert!(refused > 100, "{read} read, {refused} refused");
}

#[test]
fn gzip_bombs_stop_at_the_limit() {
    // 10 MiB in 10 KiB, and zipped once more.
    let bomb = zipped(&vec![b' '; 10 * 1024 * 1024]);
    assert!(bomb.len() < 12 * 1024);
    for limit in [0, 1, 4096, 1024 * 1024] {
        assert!(matches!(timed("gunzip", &bomb, || gunzip(&bomb, limit)), Err(PayloadError::TooLarge { limit: told }) if told == limit));
    }
    // Nothing behind the limit is unzipped: a decoder that goes on meets the end of this one, and takes it for damage.
    let cut = &bomb[..bomb.len() / 2];
    assert!(matches!(gunzip(cut, 1024 * 1024), Err(PayloadError::TooLarge { .. })));
    assert!(matches!(gunzip(cut, u64::MAX), Err(PayloadError::Damaged(_))));
    let mut unzipped = String::new();
    flate2::read::GzDecoder::new(&bomb[..]).read_to_string(&mut unzipped).unwrap();
    assert_eq!(gunzip(&bomb, u64::MAX).unwrap(), unzipped);
    assert!(matches!(gunzip(&zipped(&bomb), 1024 * 1024), Err(PayloadError::Damaged(_))));
}

#[test]
fn damaged_connection_strings_tell_no_secret() {
    // Each part of a secret that is as long as this would be a leak.
    const SEEN: usize = 8;
    let key = STANDARD.encode(b"QZXJ-secret-of-the-account-7319-never-to-be-seen-QZXJ");
    let signature = "sZ9qXw7Kd3Yp1LmTgHbV5nRcUe8oJfAi";
    let hosts = ["Blob", "Queue", "Table"].map(|name| format!("{name}Endpoint=https://orders1.{}.core.windows.net/", name.to_lowercase()));
    let whole = [
        format!("DefaultEndpointsProtocol=https;AccountName=orders1;AccountKey={key};EndpointSuffix=core.windows.net"),
        format!("{};SharedAccessSignature=sv=2022-11-02&ss=bqt&sig={signature}", hosts.join(";")),
        format!("AccountName=orders1;AccountKey={key};{}", hosts.join(";")),
        format!("AccountName=devstoreaccount1;AccountKey={key};BlobEndpoint=http://127.0.0.1:1/devstoreaccount1"),
        "UseDevelopmentStorage=true".to_owned(),
    ];
    let leaks = |text: &str| {
        let parts = |secret: &str| (0..=secret.len() - SEEN).map(|at| secret[at..at + SEEN].to_owned()).collect::<Vec<_>>();
        [parts(&key), parts(signature)].concat().into_iter().any(|part| text.contains(&part))
    };
    let (mut read, mut refused) = (0, 0);
    for seed in 0..6_000 {
        let mut random = Random::new(seed);
        let original = random.one_of(&whole).clone();
        let bytes = damaged(original.as_bytes(), random.one_of(&whole).clone().as_bytes(), &mut random);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match timed("connection string", &bytes, || Account::from_connection_string(&text)) {
            Ok(account) => {
                assert!([Service::Blob, Service::Queue, Service::Table].iter().all(|service| !account.host(*service).is_empty()));
                assert!((3..=24).contains(&account.name().len()), "seed {seed}");
                // A secret that the damage moved into an endpoint is one no longer, to anybody.
                if !text.split(';').any(|part| part.contains("Endpoint=") && leaks(part)) {
                    assert!(!leaks(&format!("{account:?}")), "seed {seed}: {account:?}");
                }
                read += 1;
            }
            Err(error) => {
                let told = format!("{error} {error:?}");
                assert!(!leaks(&told) && told.len() < 500, "seed {seed}: {told}");
                refused += 1;
            }
        }
    }
    assert!(read > 100 && refused > 1000, "{read} read, {refused} refused");
}

#[test]
fn damaged_tokens_and_names() {
    let token = STANDARD.encode(r#"{"NextPartitionKey":"1!8!bGktMg--","NextRowKey":"1!4!AAAA","NextTableName":null,"TargetLocation":0}"#);
    let texts = [
        "1!8!bGktMg-- 1!4!AAAA",
        "bGktMg== ",
        &token,
        "2026-11-23T07:29:23.872056Z",
        "9999-12-31T23:59:59.9999999Z",
        "0001-01-01T00:00:00+14:00",
        "OrdersHub",
        "order-4711",
        "http://127.0.0.1:10000/devstoreaccount1/hub-largemessages/a%5E0b/history--Input-0A1B2C3D-Input.json.gz",
    ];
    for seed in 0..8_000 {
        let mut random = Random::new(seed);
        let bytes = damaged(random.one_of(&texts).as_bytes(), random.one_of(&texts).as_bytes(), &mut random);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some(token) = timed("token", &bytes, || continuation_token(&text)) {
            assert!(token.len() <= text.len() + 1, "seed {seed}");
        }
        let _ = timed("time", &bytes, || Time::parse(&text));
        if let Ok(name) = HubName::new(&text) {
            assert!(name.as_str().len() <= 50);
        }
        if let Ok(id) = InstanceId::new(&text) {
            assert!(id.as_str().encode_utf16().count() <= 256);
        }
        if let Some(name) = timed("reference", &bytes, || blob_of_column(&text, CONTAINER)) {
            assert!(name.len() <= text.len(), "seed {seed}");
        }
    }
}

#[test]
fn damaged_times() {
    let (mut read, mut refused) = (0, 0);
    for seed in 0..12_000 {
        let mut random = Random::new(seed);
        let mut text: Vec<char> = time(&mut random).to_string().chars().collect();
        // Few of the damages above leave a time: here one character is another one, there or not.
        for _ in 0..=random.below(2) {
            let at = random.below(text.len());
            match random.below(4) {
                0 => drop(text.remove(at)),
                1 => text.insert(at, *random.one_of(&['0', '9', '-', '+', ':', '.', ' ', 'z', '[', '\u{2212}'])),
                _ => text[at] = *random.one_of(&['0', '1', '2', '3', '6', '9', '-', 'T', 't', 'Z', 'z']),
            }
        }
        let text: String = text.into_iter().collect();
        match timed("time", text.as_bytes(), || Time::parse(&text)) {
            Ok(time) => {
                assert_eq!(Time::parse(&time.to_string()), Ok(time), "seed {seed}: {text}");
                assert_eq!(Time::parse(&time.to_table()), Ok(time), "seed {seed}: {text}");
                assert_eq!(time.to_table().len(), 28, "seed {seed}: {text}");
                assert_eq!(Time::from(std::time::SystemTime::from(time)), time, "seed {seed}: {text}");
                read += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(read > 1000 && refused > 1000, "{read} read, {refused} refused");
}
