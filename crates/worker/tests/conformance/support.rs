//! A fresh hub on the emulator, and the worker's process.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use durable_bed::folder;
use durable_bed::guard::{Process, Signal};
use durable_bed::recording::{Recording, Snapshot};
use durable_taskhub::Time;
use durable_taskhub::event::ExecutionStarted;
use durable_taskhub::message::Message;
use durable_taskhub::names::{HubName, escape_key};
use durable_taskhub::partition::{PartitionCount, partition_of};
use durable_taskhub::storage::{Account, Condition, Entity, Options, Queue, Storage};

/// How long a run may take beyond its own timers.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A hub of its own for one test.
pub struct TestHub {
    pub connection_string: String,
    pub storage: Storage,
    pub name: HubName,
    /// Logs of the workers, and the marker files of the sample activities.
    pub folder: PathBuf,
    workers: AtomicUsize,
}

/// A worker's process. It ends with the test's process, also if that one is killed.
pub struct WorkerProcess(Process);

/// A recording of the extension's client and worker.
pub fn recording(scenario: &str) -> Recording {
    recording_by("ext", scenario)
}

/// A recording of the extension's worker with that client.
pub fn recording_by(client: &str, scenario: &str) -> Recording {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/golden/hub/{client}__durable__{scenario}.json.gz"));
    Recording::read(&path).unwrap()
}

impl TestHub {
    /// A hub as `--create-hub` makes it, four partitions.
    pub async fn new(test: &str) -> TestHub {
        let connection_string = connection_string();
        let storage = Storage::new(Account::from_connection_string(&connection_string).unwrap(), Options::default()).unwrap();
        let random = uuid::Uuid::new_v4().simple().to_string();
        let name = HubName::new(&format!("T{}{}", test.replace('_', ""), &random[..6])).unwrap();
        durable_worker::create::create_hub(&storage, &name, PartitionCount::DEFAULT).await.unwrap();
        let folder = folder::new(&format!("worker-{name}")).unwrap();
        TestHub { connection_string, storage, name, folder, workers: AtomicUsize::new(0) }
    }

    pub fn queue_of(&self, instance_id: &str) -> Queue {
        self.storage.queue(&self.name.control_queue(partition_of(instance_id, PartitionCount::DEFAULT)))
    }

    /// Row and message of a start, as the extension's client writes them.
    pub async fn start(&self, id: &str, function: &str, input: Option<&str>) -> Message {
        let now = Time::now();
        let execution_id = uuid::Uuid::new_v4().simple().to_string();
        self.row(id, &execution_id, function, input, now).await;
        let message = Message::start(ExecutionStarted::new(id, &execution_id, function, input.map(str::to_owned)), now, 1);
        self.queue_of(id).put(&message.encode().unwrap(), Duration::ZERO).await.unwrap();
        message
    }

    pub async fn row(&self, id: &str, execution_id: &str, function: &str, input: Option<&str>, created: Time) {
        let mut row = Entity::new(escape_key(id), "")
            .with("Name", function)
            .with("CreatedTime", created)
            .with("LastUpdatedTime", created)
            .with("RuntimeStatus", "Pending")
            .with("ExecutionId", execution_id)
            .with("TaskHubName", self.name.as_str())
            .with("Generation", 0)
            .with("Tags", "null");
        if let Some(input) = input {
            row.set("Input", input);
        }
        self.storage.table(&self.name.instances_table()).replace(&row, Condition::Upsert).await.unwrap();
    }

    pub async fn instance(&self, id: &str) -> Option<Entity> {
        self.storage.table(&self.name.instances_table()).get(&escape_key(id), "", &[]).await.unwrap()
    }

    /// The row once it has one of the statuses.
    pub async fn wait_for(&self, id: &str, statuses: &[&str], patience: Duration) -> Entity {
        let begin = Instant::now();
        loop {
            let row = self.instance(id).await;
            if let Some(row) = &row
                && row.text("RuntimeStatus").is_some_and(|status| statuses.contains(&status))
            {
                return row.clone();
            }
            assert!(begin.elapsed() < patience, "{id} in {} did not become {statuses:?}: {row:?}", self.name);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until no queue holds a message, visible or not.
    pub async fn wait_until_empty(&self) {
        let begin = Instant::now();
        loop {
            let snapshot = self.snapshot("").await;
            if snapshot.queues.values().all(|queue| queue.approximate_count == 0) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{:?}", snapshot.queues);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn snapshot(&self, label: &str) -> Snapshot {
        Snapshot::take(&self.storage, &self.name, label).await.unwrap()
    }

    pub fn worker(&self) -> WorkerProcess {
        let name = format!("worker{}", self.workers.fetch_add(1, Ordering::Relaxed));
        let arguments = ["--connection-string-env", "TEST_STORAGE", "--create-hub", "--task-hub-name", self.name.as_str()];
        let environment = [("TEST_STORAGE", self.connection_string.as_str()), ("FLAKY_DIR", self.folder.to_str().unwrap())];
        let program = Path::new(env!("CARGO_BIN_EXE_durable-worker"));
        WorkerProcess(Process::start(&name, &self.folder, program, arguments, environment).unwrap())
    }
}

impl WorkerProcess {
    /// SIGTERM; the process must end by itself, without error.
    pub async fn stop(mut self) {
        assert!(self.0.ended().is_none(), "the worker ended before it was stopped:\n{}", self.0.output());
        self.0.signal(Signal::Term);
        let status = self.ended().await;
        assert!(status.success(), "{status}:\n{}", self.0.output());
    }

    /// SIGKILL, as a crash.
    pub async fn crash(mut self) {
        self.0.signal(Signal::Kill);
        self.ended().await;
    }

    async fn ended(&mut self) -> std::process::ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.ended() {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "the worker does not stop:\n{}", self.0.output());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Where the emulator listens.
pub fn connection_string() -> String {
    durable_bed::azurite::Azurite::of_process().unwrap().connection_string()
}
