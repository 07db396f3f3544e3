//! Counts runs by their history: was each started once, and did each come to one end?
//!
//! Reads the hub behind the operator's back, and knows nothing of objects.

use std::collections::{BTreeMap, BTreeSet};

use durable_bed::BedError;
use durable_bed::recording::{Row, Snapshot};
use durable_taskhub::names::HubName;
use durable_taskhub::storage::{Account, Options, Storage};

/// Which runs are counted, and what they must be.
#[derive(clap::Args)]
pub struct Census {
    /// Environment variable that holds the connection string
    #[arg(long, value_name = "NAME", default_value = "STORAGE")]
    connection_string_env: String,
    /// The task hub
    #[arg(long, value_name = "HUB")]
    hub: String,
    /// Only instances whose ID begins with this
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
    /// How many there must be
    #[arg(long, value_name = "N")]
    runs: usize,
    /// How many activities each must have run, each once
    #[arg(long, value_name = "N")]
    activities: usize,
}

/// What the history says of one instance.
#[derive(Default)]
struct Run {
    executions: BTreeSet<String>,
    events: BTreeMap<String, usize>,
}

impl Census {
    /// Prints a line that says what was found.
    ///
    /// # Errors
    /// If a run is missing, was started twice, has no end or more than one, or is one too many; each is named.
    pub async fn take(&self) -> Result<(), BedError> {
        let variable = &self.connection_string_env;
        let connection_string =
            std::env::var(variable).map_err(|_| BedError::new(format!("environment variable {variable} is not set")))?;
        let account = Account::from_connection_string(&connection_string).map_err(|error| BedError::new(error.to_string()))?;
        let storage = Storage::new(account, Options::default()).map_err(|error| BedError::new(error.to_string()))?;
        let hub = HubName::new(&self.hub).map_err(|error| BedError::new(error.to_string()))?;
        let snapshot = Snapshot::take(&storage, &hub, "now").await.map_err(|error| BedError::new(error.to_string()))?;
        let mut runs: BTreeMap<String, Run> = BTreeMap::new();
        for row in snapshot.rows("Instances") {
            runs.entry(text(row, "PartitionKey")).or_default();
        }
        for row in snapshot.rows("History") {
            let run = runs.entry(text(row, "PartitionKey")).or_default();
            run.executions.insert(text(row, "ExecutionId"));
            *run.events.entry(text(row, "EventType")).or_default() += 1;
        }
        runs.retain(|id, _| id.starts_with(&self.prefix));
        let wrong: Vec<String> = runs.iter().filter_map(|(id, run)| self.fault(run).map(|fault| format!("{id}: {fault}"))).collect();
        println!("{} runs, {} of them not as they should be", runs.len(), wrong.len());
        if !wrong.is_empty() {
            return Err(BedError::new(wrong.join("\n")));
        }
        if runs.len() != self.runs {
            return Err(BedError::new(format!("there are {} runs instead of {}: lost, or too many", runs.len(), self.runs)));
        }
        Ok(())
    }

    fn fault(&self, run: &Run) -> Option<String> {
        let count = |event: &str| run.events.get(event).copied().unwrap_or_default();
        let expected =
            [("ExecutionStarted", 1), ("ExecutionCompleted", 1), ("TaskScheduled", self.activities), ("TaskCompleted", self.activities)];
        let is_right = run.executions.len() == 1 && expected.iter().all(|(event, times)| count(event) == *times);
        (!is_right).then(|| format!("{} executions, {:?}", run.executions.len(), run.events))
    }
}

fn text(row: &Row, column: &str) -> String {
    row.get(column).and_then(|cell| cell.value.as_str()).unwrap_or_default().to_owned()
}
