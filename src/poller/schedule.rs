//! When an instance is read next. Pure: neither clock nor chance.
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
    fn a_hub_that_fails_is_left_alone_for_at_most_half_a_minute() {
        assert_eq!(pause_after(1), Duration::from_secs(1));
        assert_eq!(pause_after(3), Duration::from_secs(4));
        assert_eq!(pause_after(1000), Duration::from_secs(30));
    }
}
