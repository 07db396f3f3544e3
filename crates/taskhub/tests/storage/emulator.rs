//! The emulator of this test process, and names that no other test has.

use std::sync::{Arc, Mutex};

use durable_taskhub::storage::{Account, ObservedRequest, Options, RequestObserver, Storage};

/// Where the emulator listens. The one place that knows how it was started.
pub fn connection_string() -> String {
    durable_bed::azurite::Azurite::of_process().unwrap().connection_string()
}

pub fn account() -> Account {
    Account::from_connection_string(&connection_string()).unwrap()
}

pub fn storage() -> Storage {
    Storage::new(account(), Options::default()).unwrap()
}

/// A name that is legal for tables, queues and containers.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}{}", uuid::Uuid::new_v4().simple())
}

/// Keeps what it is told.
#[derive(Default)]
pub struct Recorder(Mutex<Vec<ObservedRequest>>);

impl Recorder {
    pub fn options() -> (Arc<Recorder>, Options) {
        let recorder = Arc::new(Recorder::default());
        (recorder.clone(), Options { observer: Some(recorder), ..Options::default() })
    }

    pub fn take(&self) -> Vec<ObservedRequest> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl RequestObserver for Recorder {
    fn observe(&self, request: &ObservedRequest) {
        self.0.lock().unwrap().push(request.clone());
    }
}
