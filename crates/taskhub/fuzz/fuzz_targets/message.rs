//! Texts of queue messages and of blobs: what is read is written so that it reads the same.
#![no_main]

use durable_taskhub::message::{Decoded, Message};
use libfuzzer_sys::fuzz_target;

fn check(message: &Message) {
    assert_eq!(Message::from_blob(message.to_json().as_bytes()).as_ref(), Ok(message));
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(Decoded::Message(message)) = Message::decode(text)
    {
        check(&message);
    }
    if let Ok(message) = Message::from_blob(bytes) {
        check(&message);
    }
});
