//! Connection strings: no error repeats the key.
#![no_main]

use durable_taskhub::storage::Account;
use libfuzzer_sys::fuzz_target;

const KEY: &str = "UVpYSi1zZWNyZXQtb2YtdGhlLWFjY291bnQ=";

fuzz_target!(|text: &str| {
    for text in [text.to_owned(), format!("AccountKey={KEY};{text}"), format!("{text}AccountKey={KEY}")] {
        if let Err(error) = Account::from_connection_string(&text) {
            assert!(!format!("{error} {error:?}").contains(&KEY[..8]));
        }
    }
});
