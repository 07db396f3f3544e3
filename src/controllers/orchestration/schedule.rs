//! When time alone changes something about an Orchestration. Pure.

use std::time::Duration;

use durable_taskhub::Time;

use super::decide::{Hold, SEND_AGAIN_AFTER, START_EXPECTED_AFTER};
use super::describe::Outcome;
use super::wish::Wish;
use crate::api::conditions::READY;
use crate::api::hub_time;
use crate::api::v1alpha1::{OrchestrationStatus, Phase, RuntimeStatus};
use crate::controllers::runner::Next;
use crate::crash_points::scaled;

/// How often a message that was perhaps sent is looked for, and a row that its history contradicts is read.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is not there is looked for after a tenth of the time that it has been missing, within these.
const MISSING_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// A moment later than a deadline, so that it has been reached.
const PAST: Duration = Duration::from_millis(50);

/// When the object has to be looked at again; `outcome` is what just came of a decision, if one was carried out.
///
/// `decided_at` is the moment that the decision was made for. A deadline of one second passed while the status was written, after
/// the decision and before this: that run was never terminated.
pub fn next(status: &OrchestrationStatus, outcome: Option<&Outcome>, wish: Option<&Wish>, decided_at: Time, now: Time) -> Next {
    let of_outcome = outcome.and_then(|outcome| after(outcome, status, now));
    let until = |at: Option<Time>| at.map(|at| at.since(now) + PAST);
    let live = !status.settled;
    let deadline = wish.filter(|_| live).and_then(|wish| wish.deadline(status.created_time.as_ref().map(|time| time.0)));
    // A deadline that had passed was acted upon: what comes of that shows in the row.
    let deadline = until(deadline.filter(|deadline| *deadline > decided_at));
    let pending = status.pending.as_ref().filter(|_| live).map(|pending| match pending.phase {
        Phase::Issued | Phase::Taken => LOOK_AGAIN_AFTER,
        Phase::Sent => after_step(pending.issued_at.0, &[SEND_AGAIN_AFTER], now),
    });
    let start = (live && status.runtime_status == Some(RuntimeStatus::Pending) && status.pending.is_none()).then(|| {
        let created = status.created_time.as_ref().map_or(now, |created| created.0);
        after_step(created, &[START_EXPECTED_AFTER, SEND_AGAIN_AFTER], now)
    });
    match [of_outcome, deadline, pending, start].into_iter().flatten().min() {
        Some(pause) => Next::After(pause),
        None => Next::Change,
    }
}

/// The time to the first step after `begun` that lies ahead; all of them behind, one more of the last.
fn after_step(begun: Time, steps: &[Duration], now: Time) -> Duration {
    let waited = now.since(begun);
    let ahead = steps.iter().map(|step| scaled(*step)).find(|step| *step > waited);
    ahead.map_or_else(|| scaled(SEND_AGAIN_AFTER), |step| step - waited) + PAST
}

fn after(outcome: &Outcome, status: &OrchestrationStatus, now: Time) -> Option<Duration> {
    match outcome {
        Outcome::Held(Hold::StartAt(at)) => Some(at.since(now) + PAST),
        // Nobody tells of a Secret, a ConfigMap, a namespace's label or an instance of somebody else.
        Outcome::Held(Hold::Waits(_) | Hold::InstanceNotFound) => Some(growing(status, now)),
        Outcome::Held(Hold::Refused(refusal)) if refusal.reason.starts_with("Input") => Some(MISSING_AGAIN.1),
        // The row will not change by itself: the history has to be asked again.
        Outcome::Row(row, _) if row.instance.runtime_status.is_terminal() && !status.settled => Some(LOOK_AGAIN_AFTER),
        _ => None,
    }
}

fn growing(status: &OrchestrationStatus, now: Time) -> Duration {
    let ready = status.conditions.iter().find(|condition| condition.type_ == READY);
    let since = ready.map_or(now, |ready| hub_time(&ready.last_transition_time));
    (now.since(since) / 10).clamp(MISSING_AGAIN.0, MISSING_AGAIN.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::HubTime;
    use crate::controllers::orchestration::identity::Identity;

    fn at(seconds: u64) -> Time {
        Time::parse("2026-11-24T12:00:00Z").unwrap().saturating_add(Duration::from_secs(seconds))
    }

    fn pending() -> OrchestrationStatus {
        OrchestrationStatus {
            runtime_status: Some(RuntimeStatus::Pending),
            created_time: Some(HubTime(at(0))),
            ..OrchestrationStatus::default()
        }
    }

    fn seconds(next: Next) -> Option<u64> {
        match next {
            Next::Change => None,
            Next::After(pause) => Some(pause.as_secs()),
        }
    }

    #[test]
    fn a_start_that_waits_is_reported_and_then_sent_again() {
        for (now, expected) in [(0, 30), (10, 20), (31, 269), (301, 300)] {
            assert_eq!(seconds(next(&pending(), None, None, at(now), at(now))), Some(expected), "{now}");
        }
        let settled = OrchestrationStatus { settled: true, ..pending() };
        assert_eq!(next(&settled, None, None, at(0), at(0)), Next::Change);
        let running = OrchestrationStatus { runtime_status: Some(RuntimeStatus::Running), ..pending() };
        assert_eq!(next(&running, None, None, at(0), at(0)), Next::Change);
    }

    #[test]
    fn what_waits_for_a_time_is_looked_at_when_it_has_come() {
        let held = Outcome::Held(Hold::StartAt(at(90)));
        assert_eq!(seconds(next(&OrchestrationStatus::default(), Some(&held), None, at(0), at(0))), Some(90));
        let held = Outcome::Held(Hold::InstanceNotFound);
        assert_eq!(seconds(next(&OrchestrationStatus::default(), Some(&held), None, at(0), at(0))), Some(2));
    }

    #[test]
    fn a_deadline_that_passes_while_the_status_is_written_is_not_missed() {
        let spec = serde_json::json!({"taskHubRef": {"name": "hub"}, "functionName": "Echo", "activeDeadlineSeconds": 10});
        let identity = Identity::new("shop", "order", "0f8fad5b-d9cb-469f-a165-70867728950e", None).unwrap();
        let wish = Wish { identity, spec: serde_json::from_value(spec).unwrap(), trace: None };
        let running = OrchestrationStatus { runtime_status: Some(RuntimeStatus::Running), ..pending() };
        let next = |decided_at, now| next(&running, None, Some(&wish), at(decided_at), at(now));
        assert_eq!(next(3, 4), Next::After(Duration::from_secs(6) + PAST));
        assert_eq!(next(9, 11), Next::After(PAST));
        // The decision knew: the run was told to end.
        assert_eq!(next(10, 11), Next::Change);
    }
}
