//! The pace of reading a queue: quick while there is work, cheap while there is none.

use std::time::Duration;

use durable_taskhub::storage::{Queue, QueueMessage};
use tokio::sync::{Notify, watch};

/// The pause after the first empty answer of a queue.
const SHORTEST: Duration = Duration::from_millis(30);
/// The pause that an idle worker ends up with.
const LONGEST: Duration = Duration::from_secs(1);
/// The longest time that an unusable message is put back for (task-hub.md 3.9, class A).
const LONGEST_BACK_OFF: u64 = 600;

/// Tells a queue's reader in this process that it was just given a message.
#[derive(Default)]
pub struct Bell(Notify);

impl Bell {
    /// Ends the reader's pause, the next one too if it does not pause now.
    pub fn ring(&self) {
        self.0.notify_one();
    }
}

/// The pause before the next request, doubled by each empty answer.
pub struct Pace(Duration);

impl Default for Pace {
    fn default() -> Pace {
        Pace(SHORTEST)
    }
}

impl Pace {
    /// There was work: ask again at once, and begin with short pauses after that.
    pub fn reset(&mut self) {
        self.0 = SHORTEST;
    }

    /// Waits for the pause to end, the bell to ring, or the worker to stop.
    pub async fn pause(&mut self, bell: &Bell, stop: &mut watch::Receiver<bool>) {
        tokio::select! {
            () = tokio::time::sleep(self.0) => self.0 = (self.0 * 2).min(LONGEST),
            () = bell.0.notified() => self.reset(),
            () = stopped(stop) => {}
        }
    }
}

/// Returns as soon as `stop` is true, or its sender is gone.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The error means that nobody is left who could end this task: stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Puts a message back for 2, 4, 8 ... seconds by how often it was received. A failure
/// leaves it invisible for the rest of its time, which is as good.
pub async fn put_back(queue: &Queue, message: &QueueMessage) {
    let seconds = back_off_seconds(message.dequeue_count);
    if let Err(error) = queue.update(&message.id, &message.pop_receipt, None, Duration::from_secs(seconds)).await {
        tracing::warn!(queue = queue.name(), message = message.id, %error, "a message could not be put back");
    }
}

/// `min(2^n, 600)`.
pub fn back_off_seconds(dequeue_count: u64) -> u64 {
    u32::try_from(dequeue_count)
        .ok()
        .and_then(|count| 2u64.checked_pow(count))
        .map_or(LONGEST_BACK_OFF, |seconds| seconds.min(LONGEST_BACK_OFF))
}

/// Deletes a message that is done with. A failure brings it back, which every handler stands.
pub async fn delete(queue: &Queue, message: &QueueMessage) {
    match queue.delete(&message.id, &message.pop_receipt).await {
        Ok(true) => {}
        Ok(false) => tracing::debug!(queue = queue.name(), message = message.id, "the message was gone"),
        Err(error) => tracing::warn!(queue = queue.name(), message = message.id, %error, "a message could not be deleted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_and_ends_at_ten_minutes() {
        let seconds: Vec<u64> = [1, 2, 3, 9, 10, 64, u64::MAX].into_iter().map(back_off_seconds).collect();
        assert_eq!(seconds, [2, 4, 8, 512, 600, 600, 600]);
    }
}
