//! What the status of an event says. Pure.
//!
//! Invariants: the same verdict described twice is the same status; a phase
//! that is final is `Stalled` unless the event was sent, so that nobody waits
//! for it (product.md 1).

use durable_taskhub::Time;
use k8s_openapi::jiff::Timestamp;

use super::decide::Verdict;
use crate::api::conditions::{self, READY, RECONCILING, STALLED, Statement, cut};
use crate::api::v1alpha1::{EventPhase, HubTime, OrchestrationEventStatus};
use crate::controllers::events::Notice;

/// What is echoed of the annotation that asks for a reconcile.
pub const MAX_ECHO_BYTES: usize = 256;

/// What is written next.
pub enum Step<'a> {
    /// Nothing but what was asked for is new.
    Unchanged,
    /// The write before the act.
    Sending,
    /// What was concluded.
    Verdict(&'a Verdict),
}

/// Who the event is for, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addressee {
    /// ID of the instance or entity.
    pub instance_id: Option<String>,
    /// UID of the Orchestration that the event is bound to.
    pub orchestration_uid: Option<String>,
}

/// The status after `step`, if `before` is what the object says now.
pub fn describe(
    before: &OrchestrationEventStatus,
    step: &Step<'_>,
    addressee: &Addressee,
    generation: i64,
    requested_at: Option<&str>,
    now: Time,
) -> OrchestrationEventStatus {
    let mut status = before.clone();
    status.last_handled_reconcile_at = requested_at.map(|value| cut(value, MAX_ECHO_BYTES).to_owned()).or(status.last_handled_reconcile_at);
    let (phase, said) = match step {
        Step::Unchanged => return status,
        Step::Sending => (EventPhase::Sending, waits("Sending", "it is being sent".to_owned())),
        Step::Verdict(verdict) => says(before, verdict),
    };
    if let Step::Verdict(Verdict::Sent(at)) = step {
        status.sent_at = Some(HubTime(*at));
    }
    status.phase = Some(phase);
    status.observed_generation = Some(generation);
    // What was known once stays: the Orchestration may be gone by now.
    status.instance_id = addressee.instance_id.clone().or(status.instance_id);
    status.orchestration_uid = addressee.orchestration_uid.clone().or(status.orchestration_uid);
    let at = Timestamp::from_second(now.unix_seconds()).unwrap_or(Timestamp::UNIX_EPOCH);
    status.conditions = conditions::conditions(&before.conditions, &said, generation, at);
    status
}

fn says(before: &OrchestrationEventStatus, verdict: &Verdict) -> (EventPhase, Vec<Statement>) {
    match verdict {
        Verdict::Held { reason, message } => (EventPhase::Waiting, waits(reason, message.clone())),
        Verdict::Stuck { reason, message } => (EventPhase::Waiting, stalled(reason, message.clone())),
        Verdict::Sent(_) => {
            let message = "sent; whether the function waits for an event of this name, nobody can tell";
            (EventPhase::Sent, vec![Statement::yes(READY, "Sent", message)])
        }
        Verdict::Unknown(why) => {
            let message = format!(
                "{why}: it may have arrived or not, and is not repeated, since it would then arrive twice. Look at the instance's history; if the event is not there, make a new OrchestrationEvent"
            );
            (EventPhase::Unknown, stalled("Unknown", message))
        }
        Verdict::Expired => {
            let waited_for = before.conditions.iter().find(|condition| condition.type_ == READY);
            let why = waited_for.map(|ready| format!(" It waited last because of {}: {}", ready.reason, ready.message)).unwrap_or_default();
            let message = format!(
                "it was not sent before spec.deadlineSeconds had passed, and never will be: make a new OrchestrationEvent, with a longer deadline if need be.{why}"
            );
            (EventPhase::Expired, stalled("Expired", message))
        }
        Verdict::Rejected { reason, message } => (EventPhase::Rejected, stalled(reason, message.clone())),
    }
}

fn waits(reason: &'static str, message: String) -> Vec<Statement> {
    vec![Statement::no(READY, reason, message.clone()), Statement::yes(RECONCILING, reason, message)]
}

fn stalled(reason: &'static str, message: String) -> Vec<Statement> {
    vec![Statement::no(READY, reason, message.clone()), Statement::yes(STALLED, reason, message)]
}

/// True if nothing more becomes of the event.
pub fn is_finished(status: &OrchestrationEventStatus) -> bool {
    matches!(status.phase, Some(EventPhase::Sent | EventPhase::Unknown | EventPhase::Expired | EventPhase::Rejected))
}

/// When the event was sent, or when it was known that it never would be.
pub fn finished_at(status: &OrchestrationEventStatus) -> Option<Time> {
    if !is_finished(status) {
        return None;
    }
    let since_stalled = || {
        let stalled = status.conditions.iter().find(|condition| condition.type_ == STALLED)?;
        let seconds = u64::try_from(stalled.last_transition_time.0.as_second()).ok()?;
        Some(Time::from(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)))
    };
    status.sent_at.as_ref().map(|at| at.0).or_else(since_stalled)
}

/// What a person should be told of the change from `before` to `after`.
pub fn notice(before: &OrchestrationEventStatus, after: &OrchestrationEventStatus) -> Option<Notice> {
    let tells = matches!(after.phase, Some(EventPhase::Unknown | EventPhase::Expired | EventPhase::Rejected));
    let said = after.conditions.iter().find(|condition| condition.type_ == READY)?;
    let reason = REASONS_OF_ENDS.into_iter().find(|reason| *reason == said.reason)?;
    (tells && after.phase != before.phase).then(|| Notice { is_warning: true, reason, action: "Deliver", note: said.message.clone() })
}

/// The reasons with which an event ends unsent, or perhaps unsent.
const REASONS_OF_ENDS: [&str; 8] =
    ["Unknown", "Expired", "Replaced", "InstanceFinished", "InvalidInstanceId", "PayloadInvalid", "PayloadTooLarge", "InvalidSpec"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::orchestration_event::decide::{hold, reject};

    fn after(before: &OrchestrationEventStatus, verdict: &Verdict, now: i64) -> OrchestrationEventStatus {
        let at = Time::from(std::time::UNIX_EPOCH + std::time::Duration::from_secs(now.unsigned_abs()));
        describe(before, &Step::Verdict(verdict), &Addressee::default(), 1, None, at)
    }

    fn said(status: &OrchestrationEventStatus) -> Vec<String> {
        status.conditions.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect()
    }

    #[test]
    fn each_verdict_has_its_phase_and_conditions() {
        let before = OrchestrationEventStatus::default();
        for (verdict, phase, conditions) in [
            (hold("WaitingForStart", "m"), EventPhase::Waiting, &["Ready=False WaitingForStart", "Reconciling=True WaitingForStart"][..]),
            (
                Verdict::Stuck { reason: "InvalidSpec", message: "m".to_owned() },
                EventPhase::Waiting,
                &["Ready=False InvalidSpec", "Stalled=True InvalidSpec"],
            ),
            (Verdict::Sent(Time::now()), EventPhase::Sent, &["Ready=True Sent"]),
            (Verdict::Unknown("why".to_owned()), EventPhase::Unknown, &["Ready=False Unknown", "Stalled=True Unknown"]),
            (Verdict::Expired, EventPhase::Expired, &["Ready=False Expired", "Stalled=True Expired"]),
            (reject("InstanceFinished", "m"), EventPhase::Rejected, &["Ready=False InstanceFinished", "Stalled=True InstanceFinished"]),
        ] {
            let status = after(&before, &verdict, 10);
            assert_eq!((status.phase, said(&status)), (Some(phase), conditions.iter().map(|c| (*c).to_owned()).collect()), "{verdict:?}");
            assert_eq!(after(&status, &verdict, 99).conditions.len(), status.conditions.len());
            if verdict != Verdict::Expired {
                assert_eq!(after(&status, &verdict, 99), status, "described twice");
            }
            let told = notice(&before, &status).map(|notice| notice.reason.to_owned());
            let is_news = matches!(phase, EventPhase::Unknown | EventPhase::Expired | EventPhase::Rejected);
            assert_eq!(told, is_news.then(|| status.conditions[0].reason.clone()));
            assert_eq!(notice(&status, &status), None);
        }
    }

    #[test]
    fn an_expired_event_says_what_it_waited_for_and_when_it_ended() {
        let waiting = after(&OrchestrationEventStatus::default(), &hold("TaskHubNotFound", "create it"), 10);
        assert_eq!(finished_at(&waiting), None);
        let expired = after(&waiting, &Verdict::Expired, 20);
        let message = &expired.conditions[0].message;
        assert!(message.ends_with("It waited last because of TaskHubNotFound: create it"), "{message}");
        assert_eq!(finished_at(&expired).map(Time::unix_seconds), Some(20));
        let sent_at = Time::now();
        assert_eq!(finished_at(&after(&waiting, &Verdict::Sent(sent_at), 30)), Some(sent_at));
    }

    #[test]
    fn what_was_known_of_the_addressee_stays() {
        let known = Addressee { instance_id: Some("i".to_owned()), orchestration_uid: Some("u".to_owned()) };
        let verdict = hold("WaitingForStart", "m");
        let status = describe(&OrchestrationEventStatus::default(), &Step::Verdict(&verdict), &known, 1, Some("now"), Time::now());
        let status = describe(&status, &Step::Verdict(&hold("OrchestrationNotFound", "m")), &Addressee::default(), 1, None, Time::now());
        assert_eq!((status.instance_id.as_deref(), status.orchestration_uid.as_deref()), (Some("i"), Some("u")));
        assert_eq!(status.last_handled_reconcile_at.as_deref(), Some("now"));
        assert_eq!(describe(&status, &Step::Unchanged, &known, 2, None, Time::now()), status);
    }
}
