//! When an instance is read next, and whether it is read by itself. Pure: neither clock nor chance.
//!
//! Often after a change, seldom while nothing happens; and not all at once,
//! when a thousand were started in the same second.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::hubs::PollingLimits;

/// How much longer the next interval is when nothing has changed.
const GROWTH_PERCENT: u32 = 150;

/// Time from the first 404 to the one that proves that an instance is gone (product.md 3.1).
pub const MISSING_AFTER: Duration = Duration::from_secs(30);

/// The interval after one of `previous`: the shortest after a change, else half as long again.
pub fn next_interval(previous: Duration, changed: bool, limits: PollingLimits) -> Duration {
    if changed { limits.min } else { (previous * GROWTH_PERCENT / 100).clamp(limits.min, limits.max) }
}

/// `interval`, up to a tenth shorter: by how much depends on the instance and on the number of the read.
pub fn spread(interval: Duration, uid: &str, read: u64) -> Duration {
    let mut hasher = DefaultHasher::new();
    (uid, read).hash(&mut hasher);
    let thousandths = u32::try_from(hasher.finish() % 100).unwrap_or(0);
    interval - interval * thousandths / 1000
}

/// A part of `interval`, a quarter to the whole: which one depends on the instance. For many that would else be read together.
pub fn scatter(interval: Duration, uid: &str) -> Duration {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    let part = u32::try_from(hasher.finish() % 10_000).unwrap_or(0);
    interval / 4 + (interval - interval / 4) * part / 10_000
}

/// Scans are chosen from so many instances on: fewer are read one by one.
const SCANS_FROM: usize = 32;

/// And they are kept down to so many, so that the choice does not change with each start and end.
const SCANS_DOWN_TO: usize = 16;

/// So many instances must be followed for each page that a scan has; more pages cost more than the points.
const ACTIVE_PER_PAGE: usize = 16;

/// The most pages of a scan, however many are followed: the points between have to get their turn.
const MOST_PAGES: usize = 20;

/// For each page of a scan that finds what was long there, so many reads must be spared.
const UNSEEN_PER_PAGE: usize = 32;

/// More waiting reads than these change nothing: the most pages that they justify.
pub const MOST_UNSEEN: usize = UNSEEN_PER_PAGE * MOST_PAGES;

/// Scans come no closer than this.
const SHORTEST_SCAN_INTERVAL: Duration = Duration::from_millis(100);

/// True if changes are better found by scans than by points. `dear`: scans cost too much lately.
pub fn scans_rather(scanning: bool, active: usize, dear: bool) -> bool {
    !dear && active >= if scanning { SCANS_DOWN_TO } else { SCANS_FROM }
}

/// The most pages that a scan for the changes of `active` instances may have.
pub fn most_pages(active: usize) -> usize {
    (active / ACTIVE_PER_PAGE).clamp(2, MOST_PAGES)
}

/// True if a scan for what was long there is better than the reads of `unseen` instances of which nothing is known.
pub fn catches_up(unseen: usize) -> bool {
    unseen >= UNSEEN_PER_PAGE
}

/// The most pages of a scan for what was long there, if nothing is known of `unseen` instances.
pub fn most_full_pages(unseen: usize) -> usize {
    (unseen / UNSEEN_PER_PAGE).clamp(1, MOST_PAGES)
}

/// The time from the start of a scan that took `took` to the start of the next one: at most a quarter of it is spent on scans.
///
/// Half of the shortest time between two reads: one request for all is cheap, and a change is shown within that time.
pub fn scan_interval(limits: PollingLimits, took: Duration) -> Duration {
    (limits.min / 2).max(SHORTEST_SCAN_INTERVAL).max(took.saturating_mul(4)).min(limits.max.max(took))
}

/// The pause of a hub after its `failures`-th failed read in a row.
pub fn pause_after(failures: u32) -> Duration {
    Duration::from_millis(500).saturating_mul(1 << failures.min(6)).min(Duration::from_secs(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PollingLimits = PollingLimits { min: Duration::from_secs(1), max: Duration::from_secs(60) };

    #[test]
    fn intervals_grow_to_the_longest_and_fall_back_after_a_change() {
        let mut interval = LIMITS.min;
        let mut read_after = Duration::ZERO;
        let mut reads = 0;
        while interval < LIMITS.max {
            interval = next_interval(interval, false, LIMITS);
            read_after += interval;
            reads += 1;
        }
        assert_eq!(interval, LIMITS.max);
        assert!(reads <= 11 && read_after < Duration::from_secs(240), "{reads} reads, {read_after:?}");
        assert_eq!(next_interval(LIMITS.max, true, LIMITS), LIMITS.min);
    }

    #[test]
    fn a_thousand_instances_of_one_second_are_not_read_at_once() {
        let due: std::collections::HashSet<u128> = (0..1000).map(|n| spread(LIMITS.max, &format!("uid-{n}"), 1).as_millis() / 60).collect();
        assert!(due.len() > 90, "{}", due.len());
        for n in 0..1000 {
            let spread = spread(LIMITS.max, &n.to_string(), 7);
            assert!(spread <= LIMITS.max && spread >= LIMITS.max * 9 / 10);
        }
    }

    #[test]
    fn many_instances_are_scanned_and_few_are_read() {
        // Scanning before, active, too dear: scans.
        for (scanning, active, dear, expected) in [
            (false, 0, false, false),
            (false, 31, false, false),
            (false, 32, false, true),
            (false, 10_000, false, true),
            (true, 31, false, true),
            (true, 16, false, true),
            (true, 15, false, false),
            (true, 10_000, true, false),
            (false, 10_000, true, false),
        ] {
            assert_eq!(scans_rather(scanning, active, dear), expected, "{scanning} {active} {dear}");
        }
    }

    #[test]
    fn a_scan_costs_less_than_the_points_that_it_spares() {
        assert_eq!([0, 32, 100, 1000, 10_000].map(most_pages), [2, 2, 6, 20, 20]);
        assert_eq!([0, 32, 100, 1000, 10_000].map(most_full_pages), [1, 1, 3, 20, 20]);
        assert_eq!(scan_interval(LIMITS, Duration::from_millis(40)), LIMITS.min / 2);
        assert_eq!(scan_interval(LIMITS, Duration::from_secs(2)), Duration::from_secs(8));
        assert_eq!(scan_interval(LIMITS, Duration::from_secs(90)), Duration::from_secs(90));
    }

    #[test]
    fn what_was_learnt_together_is_checked_at_different_times() {
        let minutes = Duration::from_secs(300);
        let mut per_second = std::collections::HashMap::new();
        for number in 0..10_000 {
            let due = scatter(minutes, &format!("uid-{number}"));
            assert!(due >= minutes / 4 && due <= minutes);
            *per_second.entry(due.as_secs()).or_insert(0) += 1;
        }
        assert!(per_second.values().all(|reads| *reads < 100), "{per_second:?}");
    }

    #[test]
    fn a_hub_that_fails_is_left_alone_for_at_most_half_a_minute() {
        assert_eq!(pause_after(1), Duration::from_secs(1));
        assert_eq!(pause_after(3), Duration::from_secs(4));
        assert_eq!(pause_after(1000), Duration::from_secs(30));
    }
}
