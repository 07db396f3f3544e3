//! What a history says about a rewind: refused, to be done, half done, done. Pure: rows in, decision out.
//!
//! A *round* is a stretch of history up to a failure of the orchestrator. Each
//! rewind takes back the end of one round by marking it `Rewound: …`, so that
//! marked ends are the boundaries between rounds.

use std::collections::{HashMap, HashSet};

use super::RewindRefusal;
use crate::instance::RuntimeStatus;
use crate::storage::{Condition, Entity, Operation};

const MARK: &str = "Rewound: ";
const ACTIVITY: &str = "TaskScheduled";
const CHILD: &str = "SubOrchestrationInstanceCreated";
const RESULTS: [&str; 4] = ["TaskCompleted", "TaskFailed", "SubOrchestrationInstanceCompleted", "SubOrchestrationInstanceFailed"];

/// Where an instance stands.
#[derive(Debug)]
pub(super) enum Standing {
    /// Failed, perhaps with a rewind half done. The marks are those that are missing, the end of the execution last.
    Failed { marks: Vec<Mark>, children: Vec<Child> },
    /// Rewound and not ended since.
    Rewound {
        /// True if no child failed: it has to be woken by a message.
        is_leaf: bool,
        /// True if it has woken since.
        is_awake: bool,
        /// The failed children whose new result it does not have.
        unanswered: Vec<Child>,
    },
    /// Ended otherwise, with the row that says so.
    Ended { status: RuntimeStatus, end: Entity },
    /// Neither.
    Running,
}

/// A row to be marked.
#[derive(Debug)]
pub(super) struct Mark {
    row: Entity,
    /// False for the row that made a child: the engine is to keep it as it is.
    becomes_generic: bool,
    was: &'static str,
}

/// A child that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) instance_id: String,
    /// The task by which the parent waits for it.
    pub(super) task_id: i32,
}

impl Mark {
    /// A merge leaves all other columns, as .NET's replacement of the whole row does (engine-experiments.md 7.1).
    pub(super) fn operation(&self, key: &str) -> Operation {
        let mut row = Entity::new(key, self.row.row_key.as_str()).with("Reason", format!("{MARK}{}", self.was));
        if self.becomes_generic {
            row.set("EventType", "GenericEvent");
        }
        Operation::Merge(row, self.row.etag.clone().map_or(Condition::Any, Condition::Match))
    }
}

/// Decides by the rows of the current execution.
pub(super) fn standing(rows: &[Entity]) -> Result<Standing, RewindRefusal> {
    let end = rows.iter().rposition(|row| event_type(row) == "ExecutionCompleted");
    let marked_ends: Vec<usize> = (0..rows.len()).filter(|index| is_marked_end(&rows[*index])).collect();
    let Some(end) = end else {
        return match marked_ends.split_last() {
            None => Ok(Standing::Running),
            Some((last, before)) => rewound(rows, before.last().map_or(0, |index| index + 1), *last),
        };
    };
    let status = rows[end].text("OrchestrationStatus").map_or(RuntimeStatus::Unknown, RuntimeStatus::from_name);
    if status != RuntimeStatus::Failed {
        return Ok(Standing::Ended { status, end: rows[end].clone() });
    }
    check(rows, &marked_ends, end)?;
    let begin = marked_ends.iter().rfind(|index| **index < end).map_or(0, |index| index + 1);
    let all = Scheduled::of(rows);
    let mut marks = Vec::new();
    let mut children = Vec::new();
    for row in &rows[begin..end] {
        let task_id = row.int32("TaskScheduledId").unwrap_or(0);
        if was(row, "TaskFailed") {
            let scheduled = all.activity(task_id)?;
            marks.extend(mark(scheduled, "TaskScheduled", true));
            marks.extend(mark(row, "TaskFailed", true));
        } else if was(row, "SubOrchestrationInstanceFailed") {
            let created = all.child(task_id)?;
            marks.extend(mark(created, "SubOrchestrationInstanceCreated", false));
            marks.extend(mark(row, "SubOrchestrationInstanceFailed", true));
            children.push(child(created, task_id)?);
        }
    }
    marks.extend(mark(&rows[end], "ExecutionCompleted", true));
    Ok(Standing::Failed { marks, children })
}

fn rewound(rows: &[Entity], begin: usize, end: usize) -> Result<Standing, RewindRefusal> {
    let since = &rows[end + 1..];
    let is_awake = since.iter().any(|row| event_type(row) == "OrchestratorStarted");
    let results: HashSet<i32> = since
        .iter()
        .filter(|row| matches!(event_type(row), "SubOrchestrationInstanceCompleted" | "SubOrchestrationInstanceFailed"))
        .map(|row| row.int32("TaskScheduledId").unwrap_or(0))
        .collect();
    let failed = rows[begin..end].iter().filter(|row| was(row, "SubOrchestrationInstanceFailed"));
    let tasks: Vec<i32> = failed.map(|row| row.int32("TaskScheduledId").unwrap_or(0)).collect();
    let all = Scheduled::of(rows);
    let mut unanswered = Vec::new();
    for task_id in tasks.iter().filter(|task_id| !results.contains(task_id)) {
        unanswered.push(child(all.child(*task_id)?, *task_id)?);
    }
    Ok(Standing::Rewound { is_leaf: tasks.is_empty(), is_awake, unanswered })
}

/// Refuses what the engine cannot replay, in this round and in those that were rewound before.
fn check(rows: &[Entity], marked_ends: &[usize], end: usize) -> Result<(), RewindRefusal> {
    if rows.iter().any(|row| event_type(row) == "TimerCreated") {
        return Err(RewindRefusal::Timers);
    }
    let mut begin = 0;
    for stop in marked_ends.iter().copied().filter(|index| *index < end).chain([end]) {
        let round = &rows[begin..stop];
        let first_failure = round.iter().position(|row| was(row, "TaskFailed") || was(row, "SubOrchestrationInstanceFailed"));
        if first_failure.is_some_and(|failure| round[failure + 1..].iter().any(schedules)) {
            return Err(RewindRefusal::FailureCaught);
        }
        begin = stop + 1;
    }
    // From the end: a task that a rewind did again has an older result too.
    let mut answered = HashSet::new();
    for row in rows.iter().rev() {
        if RESULTS.iter().any(|name| was(row, name)) {
            answered.insert(row.int32("TaskScheduledId"));
        } else if matches!(event_type(row), "TaskScheduled" | "SubOrchestrationInstanceCreated")
            && !answered.contains(&row.int32("EventId"))
        {
            return Err(RewindRefusal::Outstanding);
        }
    }
    Ok(())
}

fn event_type(row: &Entity) -> &str {
    row.text("EventType").unwrap_or_default()
}

/// True if the row is, or was before a rewind, of that type.
fn was(row: &Entity, name: &str) -> bool {
    event_type(row) == name || (event_type(row) == "GenericEvent" && is_marked(row, name))
}

fn is_marked(row: &Entity, name: &str) -> bool {
    row.text("Reason").and_then(|reason| reason.strip_prefix(MARK)) == Some(name)
}

/// A second rewind by .NET marks the end of the first anew, as `Rewound: GenericEvent` (engine-experiments.md 7.7).
fn is_marked_end(row: &Entity) -> bool {
    event_type(row) == "GenericEvent"
        && row.columns.contains_key("OrchestrationStatus")
        && row.text("Reason").is_some_and(|reason| reason.starts_with(MARK))
}

fn schedules(row: &Entity) -> bool {
    matches!(event_type(row), "TaskScheduled" | "SubOrchestrationInstanceCreated" | "EventSent" | "TimerCreated")
        || was(row, "TaskScheduled")
}

/// By kind and task, the newest row that scheduled it: an activity that was rewound before has older ones.
struct Scheduled<'a>(HashMap<(&'static str, i32), &'a Entity>);

impl<'a> Scheduled<'a> {
    fn of(rows: &'a [Entity]) -> Scheduled<'a> {
        let kind = |row: &Entity| [ACTIVITY, CHILD].into_iter().find(|name| was(row, name));
        Scheduled(rows.iter().filter_map(|row| Some(((kind(row)?, row.int32("EventId")?), row))).collect())
    }

    fn activity(&self, task_id: i32) -> Result<&'a Entity, RewindRefusal> {
        self.0.get(&(ACTIVITY, task_id)).copied().ok_or(RewindRefusal::Damaged("the row of an activity that failed"))
    }

    fn child(&self, task_id: i32) -> Result<&'a Entity, RewindRefusal> {
        self.0.get(&(CHILD, task_id)).copied().ok_or(RewindRefusal::Damaged("the row of a sub-orchestration that failed"))
    }
}

fn child(created: &Entity, task_id: i32) -> Result<Child, RewindRefusal> {
    let instance_id = created.text("InstanceId").ok_or(RewindRefusal::Damaged("the ID of a sub-orchestration"))?;
    Ok(Child { instance_id: instance_id.to_owned(), task_id })
}

/// None if the row has the mark.
fn mark(row: &Entity, name: &'static str, becomes_generic: bool) -> Option<Mark> {
    let done = is_marked(row, name) && (!becomes_generic || event_type(row) == "GenericEvent");
    (!done).then(|| Mark { row: row.clone(), becomes_generic, was: name })
}

#[cfg(test)]
mod tests;
