//! Continuation tokens: what is read is written so that it reads the same.
#![no_main]

use durable_taskhub::inspection::continuation_token;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(token) = continuation_token(text) {
        assert_eq!(continuation_token(&token), Some(token));
    }
});
