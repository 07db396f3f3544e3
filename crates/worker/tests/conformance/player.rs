//! Plays a recording again, step by step: its commands by messages and rows as the recorded client wrote them, its worker
//! by ours; each recorded snapshot must equal ours.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use durable_bed::recording::{Recording, Snapshot, Step, entity};
use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventKind, ExecutionStarted};
use durable_taskhub::message::Message;
use durable_taskhub::storage::{Condition, Entity, Service};
use durable_worker::large::LargeValues;
use serde_json::Value as Json;

use crate::comparison::{Order, compare_in};
use crate::support::{PATIENCE, TestHub, WorkerProcess};

/// How far a recording was played.
#[derive(Debug, PartialEq, Eq)]
pub struct Played {
    /// The snapshots that were equal.
    pub compared: usize,
    /// The operations of the rest: the client's own, after the last run of a worker.
    pub left: Vec<String>,
}

/// Plays `recording` in a fresh hub, as far as a worker takes part in it.
pub async fn play(recording: &Recording, order: Order) -> Played {
    let mut player = Player { hub: TestHub::new(&recording.scenario).await, recording, order, worker: None, compared: 0 };
    let last_run = recording.steps.iter().rposition(|step| matches!(step, Step::Note { text } if text == "worker stopped"));
    // The snapshot after the last run is the last one that a worker has a part in.
    let after = last_run.map_or(&recording.steps[..], |at| &recording.steps[at..]);
    let end = last_run.unwrap_or(0) + after.iter().position(|step| matches!(step, Step::Snapshot(_))).unwrap() + 1;
    let mut begin = 0;
    if let Some((at, queued)) = player.queued_at_once() {
        player.restore(queued).await;
        player.compare(queued).await;
        begin = at + 1;
    }
    for at in begin..end {
        match &recording.steps[at] {
            Step::Command { command, reply } => player.command(at, command, reply).await,
            Step::Note { text } => player.note(at, text).await,
            Step::Snapshot(expected) => player.compare(expected).await,
        }
    }
    let left = recording.steps[end..].iter().filter_map(|step| match step {
        Step::Command { command, .. } => Some(text(command, "op").to_owned()),
        _ => None,
    });
    Played { compared: player.compared, left: left.collect() }
}

/// A fresh hub in the state that the recorded client's first commands led to.
pub async fn play_queued(recording: &Recording) -> TestHub {
    let mut player = Player { hub: TestHub::new(&recording.scenario).await, recording, order: Order::Exact, worker: None, compared: 0 };
    let (_, queued) = player.queued_at_once().unwrap();
    player.restore(queued).await;
    player.compare(queued).await;
    player.hub
}

struct Player<'a> {
    hub: TestHub,
    recording: &'a Recording,
    order: Order,
    worker: Option<WorkerProcess>,
    compared: usize,
}

impl<'a> Player<'a> {
    /// The snapshot `queued` that follows commands alone: its rows, messages and blobs are what the client wrote.
    fn queued_at_once(&self) -> Option<(usize, &'a Snapshot)> {
        let recording: &'a Recording = self.recording;
        let at = recording.steps.iter().position(|step| !matches!(step, Step::Command { .. }))?;
        match &recording.steps[at] {
            Step::Snapshot(snapshot) if at > 0 => Some((at, snapshot)),
            _ => None,
        }
    }

    /// Writes what a recorded client wrote, verbatim but for the hub's name and the address of the emulator.
    async fn restore(&self, snapshot: &Snapshot) {
        let (hub, recorded) = (&self.hub, &self.recording.hub);
        let lower = |text: &str| text.replace(&recorded.to_lowercase(), &hub.name.as_str().to_lowercase());
        for (container, blobs) in &snapshot.blobs {
            let container = hub.storage.container(&lower(container));
            for blob in blobs.iter().flatten().filter(|blob| blob.name.contains('/')) {
                container.create_if_missing().await.unwrap();
                container.put(&blob.name, STANDARD.decode(&blob.base64).unwrap(), true).await.unwrap();
            }
        }
        for row in snapshot.rows("Instances") {
            let mut row = entity(row).unwrap();
            row.set("TaskHubName", hub.name.as_str());
            if let Some((_, path)) = row.text("Input").and_then(|input| input.split_once("/devstoreaccount1/")) {
                let url = format!("{}/{}", hub.storage.account().endpoint(Service::Blob).trim_end_matches('/'), lower(path));
                row.set("Input", url);
            }
            hub.storage.table(&hub.name.instances_table()).insert(&row).await.unwrap();
        }
        assert!(snapshot.rows("History").is_empty());
        for (queue, state) in &snapshot.queues {
            for message in &state.messages {
                hub.storage.queue(&lower(queue)).put(&message.text, Duration::ZERO).await.unwrap();
            }
        }
    }

    async fn compare(&mut self, expected: &Snapshot) {
        assert!(self.worker.is_none(), "{}: the worker runs", expected.label);
        let actual = self.hub.snapshot(&expected.label).await;
        compare_in(self.order, &self.hub, self.recording, expected, &actual);
        self.compared += 1;
    }

    async fn note(&mut self, at: usize, note: &str) {
        match note.split(' ').collect::<Vec<_>>()[..] {
            ["worker", "started"] => self.worker = Some(self.hub.worker()),
            ["worker", "stopped"] => {
                self.settle(at).await;
                self.worker.take().unwrap().stop().await;
            }
            ["instance", id, "is", status] => {
                self.hub.wait_for(id, &[status], PATIENCE).await;
            }
            ["healed", key] => std::fs::write(self.hub.folder.join(durable_worker::uri::escape(key)), "").unwrap(),
            _ => panic!("{note}"),
        }
    }

    /// Waits until the worker serves all partitions and the queues hold what they hold in the next snapshot.
    async fn settle(&self, at: usize) {
        let expected = self.next_snapshot(at);
        let counts = |snapshot: &Snapshot| snapshot.queues.values().map(|queue| queue.approximate_count).collect::<Vec<_>>();
        let begin = Instant::now();
        loop {
            let now = self.hub.snapshot("").await;
            if counts(&now) == counts(expected) && now.rows("Partitions").iter().all(|row| row.contains_key("CurrentOwner")) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{} {}: {:?}", self.recording.scenario, expected.label, now.queues);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn next_snapshot(&self, at: usize) -> &Snapshot {
        let snapshot =
            self.recording.steps[at..].iter().find_map(|step| if let Step::Snapshot(snapshot) = step { Some(snapshot) } else { None });
        snapshot.unwrap()
    }

    async fn command(&self, at: usize, command: &Json, reply: &Json) {
        if reply["ok"] != true {
            // Refused by the client: nothing reached the hub, as the next snapshot says.
            return;
        }
        let reason = || command["reason"].as_str().map(str::to_owned);
        let data = |name: &str| command.get(name).map(ToString::to_string);
        let id = command["id"].as_str().unwrap_or_default();
        match text(command, "op") {
            "start" => self.start(id, text(command, "name"), data("input")).await,
            "restart" => {
                let row = self.hub.instance(id).await.unwrap();
                let (name, input) = (row.text("Name").unwrap(), row.text("Input").map(str::to_owned));
                self.start(reply["result"].as_str().unwrap(), name, input).await;
            }
            "raise" => {
                let kind = EventKind::EventRaised {
                    name: Some(text(command, "event").to_owned()),
                    input: data("data"),
                    parent_trace_context: None,
                };
                self.send(id, kind).await;
            }
            "terminate" => self.send(id, EventKind::ExecutionTerminated { input: reason() }).await,
            "suspend" => self.send(id, EventKind::ExecutionSuspended { reason: reason() }).await,
            "resume" => self.send(id, EventKind::ExecutionResumed { reason: reason() }).await,
            "rewind" => self.rewind(self.next_snapshot(at), &reason()).await,
            op => panic!("{op}"),
        }
    }

    /// Row and message of a start; one that replaces a row has the next generation (task-hub.md 6.1).
    async fn start(&self, id: &str, function: &str, input: Option<String>) {
        let hub = &self.hub;
        let generation = hub.instance(id).await.map_or(0, |row| row.int32("Generation").unwrap() + 1);
        let (now, execution_id) = (Time::now(), uuid::Uuid::new_v4().simple().to_string());
        hub.row(id, &execution_id, function, input.as_deref(), now).await;
        let generation_only = Entity::new(durable_taskhub::names::escape_key(id), "").with("Generation", generation);
        hub.storage.table(&hub.name.instances_table()).merge(&generation_only, Condition::Any).await.unwrap();
        let started = ExecutionStarted { generation: Some(generation), ..ExecutionStarted::new(id, &execution_id, function, input) };
        hub.queue_of(id).put(&Message::start(started, now, 1).encode().unwrap(), Duration::ZERO).await.unwrap();
    }

    /// A control message; the recorded client numbered each one 1.
    async fn send(&self, id: &str, kind: EventKind) {
        let message = Message::new(id, None, Event::new(Time::now(), kind), 1);
        let text = LargeValues::new(&self.hub.storage, &self.hub.name).queue_text(&message).await.unwrap();
        self.hub.queue_of(id).put(&text, Duration::ZERO).await.unwrap();
    }

    /// What the recorded client changed: marks in history rows, the status of rows, one message per leaf (task-hub.md 6.11).
    async fn rewind(&self, rewound: &Snapshot, reason: &Option<String>) {
        let hub = &self.hub;
        for row in rewound.rows("History").iter().map(|row| entity(row).unwrap()) {
            if let Some(mark) = row.text("Reason").filter(|reason| reason.starts_with("Rewound: ")) {
                let change = Entity::new(row.partition_key.as_str(), row.row_key.as_str())
                    .with("EventType", row.text("EventType").unwrap())
                    .with("Reason", mark);
                hub.storage.table(&hub.name.history_table()).merge(&change, Condition::Any).await.unwrap();
            }
        }
        for row in rewound.rows("Instances").iter().map(|row| entity(row).unwrap()) {
            assert_eq!(row.text("RuntimeStatus"), Some("Pending"));
            let change = Entity::new(row.partition_key.as_str(), "").with("RuntimeStatus", "Pending").with("LastUpdatedTime", Time::now());
            hub.storage.table(&hub.name.instances_table()).merge(&change, Condition::Any).await.unwrap();
        }
        for message in rewound.queues.values().flat_map(|queue| &queue.messages) {
            let json: Json = serde_json::from_str(&message.text).unwrap();
            let leaf = text(&json["TaskMessage"]["OrchestrationInstance"], "InstanceId");
            self.send(leaf, EventKind::GenericEvent { data: reason.clone() }).await;
        }
    }
}

fn text<'a>(json: &'a Json, member: &str) -> &'a str {
    json[member].as_str().unwrap_or_else(|| panic!("{member} in {json}"))
}
