//! Rows of the history as the table service sends them: what is read is written so that it reads the same.
#![no_main]

use durable_taskhub::Instance;
use durable_taskhub::event::Event;
use durable_taskhub::inspection::row;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(row) = row(bytes) else { return };
    if let Ok(event) = Event::from_row(&row) {
        let again = event.to_row(&row.partition_key, 0, "E");
        // Not-a-number is equal to nothing.
        if format!("{:?}", again.columns).contains("NaN") {
            return;
        }
        assert_eq!(Event::from_row(&again).as_ref(), Ok(&event));
    }
    Instance::from_row(row, "http://127.0.0.1:10000/devstoreaccount1/hub-largemessages");
});
