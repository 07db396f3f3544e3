//! Waiting for the end of an instance, by looking at its row.
//!
//! Owns how often is looked: soon at first, since many runs are short, then
//! ever less often, so that a long wait costs one small request every two
//! seconds. It reads only, and never more than the row without its input.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::hub::TaskHub;
use crate::instance::Instance;
use crate::storage::StorageError;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// Why the end of an instance was not seen.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The hub has no instance of this ID, or has none any more.
    #[error("the task hub has no instance of this ID")]
    NotFound,
    /// The instance had not ended at the limit. What was seen last.
    #[error("the instance is still {} at the limit of the wait", .0.runtime_status)]
    TimedOut(Box<Instance>),
    /// The storage account did not answer as needed, after the retries of the call.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl TaskHub {
    /// Waits until the row of the instance shows an end, and returns it, without the input. A limit of zero looks once.
    ///
    /// Looks at once, after 100 ms, and then ever less often down to once in 2 s; the last look is at the limit. So it costs at most
    /// 12 requests and one for every 2 s of `limit`, and ends at the limit plus one call, which
    /// [`Options::total_timeout`](crate::storage::Options::total_timeout) bounds.
    ///
    /// The row is what all readers see. Where it contradicts the history (engine-experiments.md 5.8), the history is right.
    ///
    /// # Errors
    /// [`WaitError`].
    pub async fn wait_for(&self, instance_id: &str, limit: Duration) -> Result<Instance, WaitError> {
        let begun = Instant::now();
        let mut delays = delays();
        loop {
            let instance = self.get_without_input(instance_id, &[]).await?.ok_or(WaitError::NotFound)?;
            if instance.runtime_status.is_terminal() {
                return Ok(instance);
            }
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(WaitError::TimedOut(Box::new(instance)));
            }
            sleep(delays.next().unwrap_or(LONGEST_DELAY).min(left)).await;
        }
    }
}

/// The times between looks: half as long again each time.
fn delays() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(FIRST_DELAY), |delay| Some((*delay * 3 / 2).min(LONGEST_DELAY)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_get_rarer_and_their_number_is_bounded() {
        assert!(delays().take(100).is_sorted());
        assert_eq!(delays().nth(20), Some(LONGEST_DELAY));
        for seconds in [0, 1, 5, 60, 3600] {
            let mut left = Duration::from_secs(seconds);
            let mut looks = 1;
            for delay in delays() {
                if left.is_zero() {
                    break;
                }
                left = left.saturating_sub(delay);
                looks += 1;
            }
            assert!(looks <= 12 + seconds / 2, "{looks} looks in {seconds} s");
        }
    }
}
