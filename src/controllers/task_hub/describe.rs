//! What the status of a TaskHub says. Pure.

use durable_taskhub::Time;
use k8s_openapi::jiff::Timestamp;

use crate::api::conditions::{self, READY, RECONCILING, STALLED, Statement, WORKERS_ACTIVE, cut};
use crate::api::v1alpha1::{ConnectionStatus, TaskHubStatus};
use crate::connection::NotReady;
use crate::controllers::events::Notice;

/// What was found out about a hub.
#[derive(Debug, Clone)]
pub enum Finding {
    /// It answers.
    Connected(Connected),
    /// It does not, and why.
    NotReady(NotReady),
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
            status.account_name.get_or_insert_with(|| connected.account_name.clone());
            status.partition_count = Some(connected.partition_count);
            status.connection = Some(connected.connection.clone());
            let message = format!("connected to the task hub in the storage account {}", connected.account_name);
            vec![Statement::yes(READY, "Connected", message), workers(connected)]
        }
        Finding::NotReady(NotReady { reason, message }) => {
            let waits = HEALS_BY_ITSELF.contains(reason);
            let kstatus = if waits { RECONCILING } else { STALLED };
            vec![Statement::no(READY, reason, message.clone()), Statement::yes(kstatus, reason, message.clone())]
        }
    };
    let at = Timestamp::from_second(now.unix_seconds()).unwrap_or(Timestamp::UNIX_EPOCH);
    status.conditions = conditions::conditions(&before.conditions, &said, generation, at);
    status
}

fn workers(connected: &Connected) -> Statement {
    if connected.served_partitions == 0 {
        let message = "no worker holds a fresh lease of a partition: check that the app runs and uses this task hub and storage account";
        return Statement::no(WORKERS_ACTIVE, "NoFreshLease", message);
    }
    Statement::yes(WORKERS_ACTIVE, "LeaseFresh", "a worker serves the hub")
}

/// What a person should be told of the change from `before` to `after`.
pub fn notice(before: &TaskHubStatus, after: &TaskHubStatus, finding: &Finding) -> Option<Notice> {
    let Finding::NotReady(NotReady { reason, message }) = finding else { return None };
    let is_new = conditions::reason(&before.conditions, READY) != conditions::reason(&after.conditions, READY);
    is_new.then(|| Notice { is_warning: true, reason, action: "Connect", note: message.clone() })
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
        }
    }
}
