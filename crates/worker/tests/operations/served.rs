//! A hub with clients: one direct, and one through a proxy that counts and cuts.

use std::time::Duration;

use durable_bed::azurite::Azurite;
use durable_bed::proxy::StorageProxy;
use durable_taskhub::TaskHub;
use durable_taskhub::event::{Event, EventKind};
use durable_taskhub::history::HistoryOptions;
use durable_taskhub::message::Message;
use durable_taskhub::names::InstanceId;
use durable_taskhub::start::StartRequest;
use durable_taskhub::storage::{Account, Options, Storage};
use durable_taskhub::{Instance, Time};

use crate::support::TestHub;

/// A hub of its own for one test.
pub struct Served {
    pub hub: TestHub,
    pub client: TaskHub,
}

/// The same hub through a proxy, by a client that tries nothing twice.
pub struct Proxied {
    pub proxy: StorageProxy,
    pub client: TaskHub,
}

impl Served {
    pub async fn new(test: &str) -> Served {
        let hub = TestHub::new(test).await;
        let client = TaskHub::connect(hub.storage.clone(), hub.name.clone(), None).await.unwrap();
        Served { hub, client }
    }

    pub async fn proxied(&self) -> Proxied {
        let proxy = Azurite::of_process().unwrap().proxy().unwrap();
        let options = Options { max_retries: 0, ..Options::default() };
        let storage = Storage::new(Account::from_connection_string(&proxy.connection_string()).unwrap(), options).unwrap();
        let client = TaskHub::connect(storage, self.hub.name.clone(), None).await.unwrap();
        proxy.clear();
        Proxied { proxy, client }
    }

    pub async fn start(&self, id: &str, function: &str, input: Option<&str>) {
        self.client.start(request(id, function, input)).await.unwrap();
    }

    pub async fn get(&self, id: &str) -> Instance {
        self.client.get(id).await.unwrap().unwrap()
    }

    pub async fn output(&self, id: &str) -> String {
        self.client.fetch(&self.get(id).await.output.unwrap(), 1 << 20).await.unwrap()
    }

    /// The event types of the current execution, as the client reads them.
    pub async fn history(&self, id: &str) -> Vec<String> {
        let page = self.client.history(id, &HistoryOptions::default(), None).await.unwrap();
        page.events.iter().map(|event| event.event.kind.event_type().to_owned()).collect()
    }

    /// Invisible messages count.
    pub async fn waiting_messages(&self) -> u64 {
        self.hub.snapshot("").await.queues.values().map(|queue| queue.approximate_count).sum()
    }

    /// A message that the client itself would refuse to send.
    pub async fn send_unchecked(&self, id: &str, kind: EventKind) {
        let message = Message::new(id, None, Event::new(Time::now(), kind), Time::now().unix_microseconds());
        self.hub.queue_of(id).put(&message.encode().unwrap(), Duration::ZERO).await.unwrap();
    }
}

impl Proxied {
    /// How many requests passed since the last call.
    pub fn requests(&self) -> usize {
        let requests = self.proxy.requests().len();
        self.proxy.clear();
        requests
    }

    /// Nothing was changed by what passed since the last call.
    pub fn has_only_read(&self) -> bool {
        let only_read = self.proxy.requests().iter().all(|request| !request.is_write());
        self.proxy.clear();
        only_read
    }
}

pub fn request(id: &str, function: &str, input: Option<&str>) -> StartRequest {
    StartRequest { instance_id: InstanceId::new(id).unwrap(), input: input.map(str::to_owned), ..StartRequest::new(function) }
}
