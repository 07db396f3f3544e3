//! What a lease's record means for one who wants to hold it, and what is written to take, renew or vacate it.
//!
//! Pure: does no request and reads no clock. The rules are those of client-go,
//! so that other programs and `kubectl get lease` understand the record, and it
//! theirs:
//!
//! - A record is valid for its *holder's* lease duration, counted on a monotonic
//!   clock from when *we* saw it change. Its times are for people: two machines'
//!   clocks are never compared.
//! - Whoever takes it counts a transition; whoever renews it does not.
//! - Fields that are not ours stay as they are.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// How long others have to leave the lease alone after a change that they saw.
pub(super) const DURATION: Duration = Duration::from_secs(12);

/// The duration of a vacated lease, in seconds: nobody holds it, and zero is not allowed.
const VACATED_SECONDS: i32 = 1;

/// What one who wants to hold the lease does about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody holds it, or its holder has let it expire.
    Acquire,
    /// It is our own.
    Renew,
    /// Another holds it.
    Wait {
        /// If the record does not change, it may be taken then.
        until: Instant,
    },
}

/// Judges `record`, which was seen to change last at `observed_at`.
pub(super) fn evaluate(record: &LeaseSpec, me: &str, observed_at: Instant, now: Instant) -> Verdict {
    match holder(record) {
        Some(holder) if holder == me => return Verdict::Renew,
        None => return Verdict::Acquire,
        Some(_) => {}
    }
    let seconds = record.lease_duration_seconds.map(|seconds| u64::try_from(seconds).unwrap_or_default());
    let until = observed_at + seconds.map_or(DURATION, Duration::from_secs);
    if now < until { Verdict::Wait { until } } else { Verdict::Acquire }
}

/// Who holds the lease, expired or not.
pub(super) fn holder(record: &LeaseSpec) -> Option<&str> {
    record.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// `record` with `me` as its holder from `now` on; renewed, if it was already. None is a lease that does not exist yet.
pub(super) fn held(record: Option<&LeaseSpec>, me: &str, now: Timestamp) -> LeaseSpec {
    let before = record.cloned().unwrap_or_default();
    let is_renewal = holder(&before) == Some(me);
    let transitions = match record {
        None => 0,
        Some(_) => before.lease_transitions.unwrap_or_default().saturating_add(i32::from(!is_renewal)),
    };
    let acquired = before.acquire_time.clone().filter(|_| is_renewal).unwrap_or(MicroTime(now));
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: Some(acquired),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(transitions),
        ..before
    }
}

/// `record` with nobody as its holder.
pub(super) fn vacated(record: &LeaseSpec, now: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(VACATED_SECONDS),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        ..record.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str, seconds: Option<i32>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: seconds,
            lease_transitions: Some(4),
            acquire_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            renew_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_record_is_valid_for_its_holders_duration_from_when_it_was_seen() {
        let seen = Instant::now();
        let after = |seconds| seen + Duration::from_secs(seconds);
        let wait = |seconds| Verdict::Wait { until: after(seconds) };
        for (holder, duration, now, expected) in [
            ("other", Some(12), 0, wait(12)),
            ("other", Some(12), 11, wait(12)),
            ("other", Some(12), 12, Verdict::Acquire),
            // The holder's duration counts, not ours: it may be another version.
            ("other", Some(30), 12, wait(30)),
            ("other", Some(30), 30, Verdict::Acquire),
            ("other", Some(1), 1, Verdict::Acquire),
            // No duration is as good as ours; a negative one has passed.
            ("other", None, 11, wait(12)),
            ("other", None, 12, Verdict::Acquire),
            ("other", Some(-5), 0, Verdict::Acquire),
            // Vacated.
            ("", Some(1), 0, Verdict::Acquire),
            // Ours, also if it has expired: nobody else took it.
            ("me", Some(12), 0, Verdict::Renew),
            ("me", Some(12), 99, Verdict::Renew),
        ] {
            assert_eq!(evaluate(&record(holder, duration), "me", seen, after(now)), expected, "{holder:?} {duration:?} after {now} s");
        }
        assert_eq!(evaluate(&LeaseSpec::default(), "me", seen, seen), Verdict::Acquire);
    }

    #[test]
    fn the_times_in_the_record_are_not_read() {
        let seen = Instant::now();
        for renewed in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
            let record = LeaseSpec { renew_time: Some(MicroTime(renewed)), ..record("other", Some(12)) };
            assert!(matches!(evaluate(&record, "me", seen, seen), Verdict::Wait { .. }));
        }
    }

    #[test]
    fn taking_counts_a_transition_and_renewing_does_not() {
        let now = Timestamp::from_second(1_000).unwrap();
        let (begun, new) = (MicroTime(Timestamp::UNIX_EPOCH), MicroTime(now));
        for (before, transitions, acquired) in [
            (None, 0, &new),
            (Some(record("other", Some(30))), 5, &new),
            (Some(record("", Some(1))), 5, &new),
            (Some(record("me", Some(12))), 4, &begun),
        ] {
            let after = held(before.as_ref(), "me", now);
            assert_eq!(after.holder_identity.as_deref(), Some("me"), "{before:?}");
            assert_eq!(after.lease_duration_seconds, Some(12), "{before:?}");
            assert_eq!(after.lease_transitions, Some(transitions), "{before:?}");
            assert_eq!(after.acquire_time.as_ref(), Some(acquired), "{before:?}");
            assert_eq!(after.renew_time.as_ref(), Some(&new), "{before:?}");
        }
    }

    #[test]
    fn what_is_vacated_can_be_taken_at_once_and_keeps_what_is_not_ours() {
        let before = LeaseSpec { preferred_holder: Some("another".to_owned()), ..record("me", Some(12)) };
        let after = vacated(&before, Timestamp::UNIX_EPOCH);
        let now = Instant::now();
        assert_eq!(evaluate(&after, "other", now, now), Verdict::Acquire);
        assert_eq!(after.lease_duration_seconds, Some(1));
        assert_eq!(after.lease_transitions, Some(4), "the next holder counts");
        assert_eq!(after.preferred_holder.as_deref(), Some("another"));
    }
}
