//! What the status of a TaskHub says. Pure.

use durable_taskhub::Time;
use durable_taskhub::artifacts::EngineLine;
use k8s_openapi::jiff::Timestamp;

use super::deletion::DELETE;
use crate::api::conditions::{self, READY, RECONCILING, STALLED, Statement, WORKERS_ACTIVE, cut};
use crate::api::v1alpha1::{Backlog, ConnectionStatus, EngineStatus, HubTime, OrchestrationCounts, TaskHubStatus};
use crate::connection::NotReady;
use crate::controllers::events::Notice;
use crate::metrics::HubBacklog;

/// What the operator was doing when it tells of a connection.
const CONNECT: &str = "Connect";

/// What was found out about a hub.
#[derive(Debug, Clone)]
pub enum Finding {
    /// It answers.
    Connected(Connected),
    /// It does not, and why.
    NotReady(NotReady),
    /// Its deletion is held, and by what; it may answer meanwhile.
    Held {
        /// What holds it.
        why: NotReady,
        /// The hub, if it answers.
        connected: Option<Box<Connected>>,
    },
}

/// A hub that answers.
#[derive(Debug, Clone)]
pub struct Connected {
    /// The storage account.
    pub account_name: String,
    /// The number of control queues.
    pub partition_count: i32,
    /// How requests are signed, and from which Secret.
    pub connection: ConnectionStatus,
    /// How many partitions a worker serves.
    pub served_partitions: usize,
    /// The engine's line, if it is known.
    pub line: Option<EngineLine>,
    /// When the hub was made, if that was asked and the hub says it.
    pub hub_created_at: Option<Time>,
    /// Orchestrations and messages, if they were counted now.
    pub counted: Option<Counted>,
}

/// What was counted.
#[derive(Debug, Clone)]
pub struct Counted {
    /// The objects.
    pub orchestrations: OrchestrationCounts,
    /// The messages; none if nothing unfinished waits for them.
    pub backlog: Option<Backlog>,
    /// The same, with the age of the oldest.
    pub messages: Option<HubBacklog>,
}

/// The reasons that heal without anybody changing the TaskHub or its Secret.
const HEALS_BY_ITSELF: [&str; 4] = ["Throttled", "Unreachable", "HubNotFound", "SecretNotFound"];

/// The status after `finding`, if `before` is what the object says now.
pub fn describe(before: &TaskHubStatus, finding: &Finding, generation: i64, requested_at: Option<&str>, now: Time) -> TaskHubStatus {
    let mut status = before.clone();
    status.last_handled_reconcile_at = requested_at.map(|value| cut(value, 256).to_owned()).or(status.last_handled_reconcile_at);
    status.observed_generation = Some(generation);
    let said = match finding {
        Finding::Connected(connected) => {
            learn(&mut status, connected);
            let message = format!("connected to the task hub in the storage account {}", connected.account_name);
            vec![Statement::yes(READY, "Connected", message), workers(connected)]
        }
        Finding::NotReady(why) => {
            let waits = HEALS_BY_ITSELF.contains(&why.reason);
            not_ready(why, if waits { RECONCILING } else { STALLED }).into()
        }
        Finding::Held { why, connected } => {
            let [ready, kstatus] = not_ready(why, RECONCILING);
            let workers = connected.as_ref().map(|connected| {
                learn(&mut status, connected);
                workers(connected)
            });
            [Some(ready), workers, Some(kstatus)].into_iter().flatten().collect()
        }
    };
    let at = Timestamp::from_second(now.unix_seconds()).unwrap_or(Timestamp::UNIX_EPOCH);
    status.conditions = conditions::conditions(&before.conditions, &said, generation, at);
    status
}

fn learn(status: &mut TaskHubStatus, connected: &Connected) {
    status.account_name.get_or_insert_with(|| connected.account_name.clone());
    status.partition_count = Some(connected.partition_count);
    status.connection = Some(connected.connection.clone());
    if let Some(line) = connected.line {
        status.engine = Some(EngineStatus { line: Some(line.to_string()) });
    }
    if let Some(created) = connected.hub_created_at {
        status.hub_created_at = Some(HubTime(created));
    }
    if let Some(Counted { orchestrations, backlog, messages: _ }) = &connected.counted {
        status.orchestrations = Some(orchestrations.clone());
        status.backlog = backlog.clone();
    }
}

fn not_ready(NotReady { reason, message }: &NotReady, kstatus: &'static str) -> [Statement; 2] {
    [Statement::no(READY, reason, message.clone()), Statement::yes(kstatus, reason, message.clone())]
}

fn workers(connected: &Connected) -> Statement {
    if connected.served_partitions == 0 {
        let message = "no worker holds a fresh lease of a partition: check that the app runs and uses this task hub and storage account";
        return Statement::no(WORKERS_ACTIVE, "NoFreshLease", message);
    }
    Statement::yes(WORKERS_ACTIVE, "LeaseFresh", "a worker serves the hub")
}

/// What a person should be told of the change from `before` to `after`: each new reason why not, and that a hub which was
/// connected before is back. The first connection is the ordinary way.
pub fn notice(before: &TaskHubStatus, after: &TaskHubStatus, finding: &Finding) -> Option<Notice> {
    let was = conditions::reason(&before.conditions, READY);
    if was == conditions::reason(&after.conditions, READY) {
        return None;
    }
    let warning = |why: &NotReady, action| Notice { is_warning: true, reason: why.reason, action, note: why.message.clone() };
    match finding {
        Finding::NotReady(why) => Some(warning(why, CONNECT)),
        Finding::Held { why, .. } => Some(warning(why, DELETE)),
        Finding::Connected(connected) => {
            let is_back = was.is_some() && before.account_name.is_some();
            let note = format!("connected again to the task hub in the storage account {}", connected.account_name);
            is_back.then_some(Notice { is_warning: false, reason: "Connected", action: CONNECT, note })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected(served_partitions: usize) -> Finding {
        Finding::Connected(Connected {
            account_name: "orders".to_owned(),
            partition_count: 4,
            connection: ConnectionStatus { method: "SharedKey".to_owned(), credential_version: "7".to_owned() },
            served_partitions,
            line: None,
            hub_created_at: None,
            counted: None,
        })
    }

    fn said(status: &TaskHubStatus) -> Vec<String> {
        status.conditions.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect()
    }

    #[test]
    fn a_hub_that_answers_is_ready_also_without_workers() {
        let now = Time::now();
        let status = describe(&TaskHubStatus::default(), &connected(0), 1, None, now);
        assert_eq!(said(&status), ["Ready=True Connected", "WorkersActive=False NoFreshLease"]);
        let status = describe(&status, &connected(2), 1, None, now);
        assert_eq!(said(&status), ["Ready=True Connected", "WorkersActive=True LeaseFresh"]);
        assert_eq!(describe(&status, &connected(4), 1, None, now), status, "how many partitions are served is no news");
    }

    #[test]
    fn what_only_a_person_can_mend_is_stalled_and_told() {
        let now = Time::now();
        let ready = describe(&TaskHubStatus::default(), &connected(1), 1, None, now);
        for (reason, kstatus) in [("InvalidConnectionString", "Stalled"), ("Unreachable", "Reconciling")] {
            let finding = Finding::NotReady(NotReady::new(reason, "mend it"));
            let status = describe(&ready, &finding, 1, Some("now"), now);
            assert_eq!(said(&status), [format!("Ready=False {reason}"), format!("{kstatus}=True {reason}")]);
            assert_eq!(status.account_name.as_deref(), Some("orders"), "the first account stays pinned");
            assert_eq!(status.last_handled_reconcile_at.as_deref(), Some("now"));
            assert_eq!(notice(&ready, &status, &finding).map(|notice| notice.reason), Some(reason));
            assert_eq!(notice(&status, &describe(&status, &finding, 1, None, now), &finding), None);
            let back = describe(&status, &connected(1), 1, None, now);
            let told = notice(&status, &back, &connected(1)).unwrap();
            assert_eq!((told.reason, told.is_warning), ("Connected", false));
        }
    }

    #[test]
    fn the_first_connection_is_no_news() {
        let now = Time::now();
        let waiting = describe(&TaskHubStatus::default(), &Finding::NotReady(NotReady::new("SecretNotFound", "")), 1, None, now);
        for before in [TaskHubStatus::default(), waiting] {
            assert_eq!(notice(&before, &describe(&before, &connected(1), 1, None, now), &connected(1)), None);
        }
    }

    #[test]
    fn what_was_not_asked_stays_as_it_was() {
        let now = Time::now();
        let mut first = connected(1);
        let Finding::Connected(found) = &mut first else { panic!("{first:?}") };
        let counts = OrchestrationCounts { running: 2, ..OrchestrationCounts::default() };
        let backlog = Backlog { control_queues: vec![1, 0, 0, 3], work_item_queue: 4 };
        found.line = Some(EngineLine::Line1);
        found.hub_created_at = Some(now);
        found.counted = Some(Counted { orchestrations: counts.clone(), backlog: Some(backlog.clone()), messages: None });
        let status = describe(&TaskHubStatus::default(), &first, 1, None, now);
        assert_eq!(status.engine.clone().unwrap().line.as_deref(), Some("1.x"));
        assert_eq!((&status.orchestrations, &status.backlog), (&Some(counts), &Some(backlog)));
        assert_eq!(describe(&status, &connected(1), 1, None, now), status);
        let Finding::Connected(found) = &mut first else { panic!("{first:?}") };
        found.counted = Some(Counted { orchestrations: OrchestrationCounts::default(), backlog: None, messages: None });
        let ended = describe(&status, &first, 1, None, now);
        assert_eq!(ended.orchestrations, Some(OrchestrationCounts::default()));
        assert_eq!(ended.backlog, None, "an old backlog must not stay");
    }

    #[test]
    fn a_held_deletion_says_what_holds_it_and_shows_the_workers() {
        let now = Time::now();
        let Finding::Connected(hub) = connected(1) else { panic!() };
        let why = NotReady::new("UnfinishedOrchestrations", "wait");
        let finding = Finding::Held { why, connected: Some(Box::new(hub)) };
        let before = describe(&TaskHubStatus::default(), &connected(1), 1, None, now);
        let status = describe(&before, &finding, 1, None, now);
        let expected =
            ["Ready=False UnfinishedOrchestrations", "WorkersActive=True LeaseFresh", "Reconciling=True UnfinishedOrchestrations"];
        assert_eq!(said(&status), expected);
        assert_eq!(notice(&before, &status, &finding).map(|notice| notice.action), Some("Delete"));
    }
}
