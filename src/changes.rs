//! A set of things that changed, filled by many and emptied by one.
//!
//! What a queue of notices would be, but bounded by the number of things: a
//! thing that changes a thousand times before the consumer looks is told once.
//! Knows nobody.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures::Stream;
use tokio::sync::Notify;

/// The set. Clones share it.
pub struct Changes<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    set: Mutex<HashSet<T>>,
    filled: Notify,
}

impl<T: Hash + Eq> Changes<T> {
    /// An empty set.
    pub fn new() -> Changes<T> {
        Changes { inner: Arc::new(Inner { set: Mutex::new(HashSet::new()), filled: Notify::new() }) }
    }

    /// `things` changed.
    pub fn add(&self, things: impl IntoIterator<Item = T>) {
        self.inner.set.lock().unwrap_or_else(PoisonError::into_inner).extend(things);
        self.inner.filled.notify_one();
    }

    /// Takes what changed; waits until something has. For one consumer.
    pub async fn next(&self) -> Vec<T> {
        loop {
            let taken: Vec<T> = std::mem::take(&mut *self.inner.set.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect();
            if !taken.is_empty() {
                return taken;
            }
            self.inner.filled.notified().await;
        }
    }

    /// What changes, one thing after another, for ever. For one consumer.
    pub fn stream(&self) -> impl Stream<Item = T> + Send + use<T>
    where
        T: Send + 'static,
    {
        use futures::StreamExt;
        let changes = self.clone();
        futures::stream::unfold(changes, async |changes| {
            let taken = changes.next().await;
            Some((futures::stream::iter(taken), changes))
        })
        .flatten()
    }
}

impl<T: Hash + Eq> Default for Changes<T> {
    fn default() -> Changes<T> {
        Changes::new()
    }
}

impl<T> Clone for Changes<T> {
    fn clone(&self) -> Changes<T> {
        Changes { inner: self.inner.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_thing_is_told_once_and_nothing_is_lost() {
        let changes = Changes::new();
        changes.add([1, 1]);
        changes.add([1, 2]);
        let mut taken = changes.next().await;
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
        assert!(tokio::time::timeout(Duration::from_millis(50), changes.next()).await.is_err());
        let waiting = tokio::spawn({
            let changes = changes.clone();
            async move { changes.next().await }
        });
        tokio::task::yield_now().await;
        changes.add([3]);
        assert_eq!(waiting.await.unwrap(), [3]);
    }
}
