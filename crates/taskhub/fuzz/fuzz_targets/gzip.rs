//! Blobs of large values: nothing larger than the limit comes out.
#![no_main]

use durable_taskhub::inspection::{gunzip, input_of_start};
use durable_taskhub::message::Message;
use libfuzzer_sys::fuzz_target;

const LIMIT: u64 = 1024 * 1024;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = gunzip(bytes, LIMIT) {
        assert!(text.len() as u64 <= LIMIT);
        let _ = input_of_start(&text);
        let _ = Message::from_blob(text.as_bytes());
    }
});
