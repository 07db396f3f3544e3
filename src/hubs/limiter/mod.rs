//! The budget of a hub: how many requests a second go to it, whose go first, and when none may.
//!
//! Owns the waiting; who is next is [`turns`]'s. Knows no hub. Invariants: a budget
//! outlives the clients that spend from it, since a probe makes new ones; a wait is
//! bounded, and longer ones are an error ([`NotAdmitted`]) that a caller can tell.

mod turns;

use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use durable_taskhub::storage::{Admission, Answered, NotAdmitted};
use tokio::sync::oneshot;

use self::turns::Turns;
use crate::metrics::LimiterMetrics;

pub use self::turns::Priority;

/// The longest wait of one request. A call may have several tries and takes at most 15 s in all.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// One that waits looks after this whether the hub has fallen silent.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What a hub may be asked. Clones share it.
#[derive(Clone)]
pub struct Budget {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    metrics: LimiterMetrics,
}

struct State {
    turns: Turns<Waiter>,
    /// Somebody looks after those who wait.
    pumped: bool,
}

impl Budget {
    /// A budget of `requests_per_second`; 0 counts as 1.
    pub fn new(requests_per_second: u32, metrics: LimiterMetrics) -> Budget {
        let state = State { turns: Turns::new(requests_per_second, Instant::now()), pumped: false };
        Budget { inner: Arc::new(Inner { state: Mutex::new(state), metrics }) }
    }

    /// Another number of requests a second from now on.
    pub fn set_rate(&self, requests_per_second: u32) {
        self.lock().turns.set_rate(requests_per_second, Instant::now());
    }

    /// The admission of a client whose requests have this priority.
    pub fn admission(&self, priority: Priority) -> Arc<dyn Admission> {
        Arc::new(Spender { budget: self.clone(), priority })
    }

    async fn admit(&self, priority: Priority) -> Result<(), NotAdmitted> {
        let arrived = Instant::now();
        let (admit, admitted) = oneshot::channel();
        let queued = self.arrive(priority, admit, arrived);
        let turn = if queued { self.turn(priority, admitted, arrived).await } else { None };
        let result = turn.map(Turn::take).ok_or(NotAdmitted);
        self.inner.metrics.waited(name(priority), arrived.elapsed());
        if result.is_err() {
            self.inner.metrics.throttled("refused");
        }
        result
    }

    /// Waits for the turn of one that is queued.
    async fn turn(&self, priority: Priority, mut admitted: oneshot::Receiver<Turn>, arrived: Instant) -> Option<Turn> {
        while arrived.elapsed() < LONGEST_WAIT {
            if let Ok(turn) = tokio::time::timeout(LOOK_AGAIN_AFTER, &mut admitted).await {
                return turn.ok();
            }
            if self.lock().turns.waits_in_vain(priority, Instant::now()) {
                return None;
            }
        }
        None
    }

    /// Queues one that wants to send, and sees to it that its turn comes; false if that would take too long.
    fn arrive(&self, priority: Priority, admit: oneshot::Sender<Turn>, now: Instant) -> bool {
        let mut state = self.lock();
        if state.turns.arrive(priority, Waiter { admit, priority }, LONGEST_WAIT, now).is_err() {
            return false;
        }
        self.grant(&mut state, now);
        true
    }

    /// Admits whose turn it is, and sees to it that somebody looks after the others.
    fn grant(&self, state: &mut State, now: Instant) {
        if state.pumped {
            return;
        }
        if let Some(next) = self.grant_now(state, now) {
            state.pumped = true;
            tokio::spawn(pump(self.clone(), next));
        }
    }

    fn grant_now(&self, state: &mut State, now: Instant) -> Option<Instant> {
        state.turns.grant(now, |Waiter { admit, priority }| match admit.send(Turn::new(self, priority)) {
            Ok(()) => true,
            // Gone away: the turn is the next one's.
            Err(turn) => {
                turn.take();
                false
            }
        })
    }

    /// A request that was admitted has come to its end.
    fn ended(&self, priority: Priority) {
        let mut state = self.lock();
        state.turns.ended(priority);
        self.grant(&mut state, Instant::now());
    }

    fn answered(&self, answer: Answered) {
        // Of a thousand, and other for each answer: the hasher's keys are random.
        let chance = u32::try_from(RandomState::new().hash_one(0) % 1000).unwrap_or(0);
        if self.lock().turns.answered(answer.status, answer.retry_after, chance, Instant::now()) {
            self.inner.metrics.throttled("answer");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Admits one after another until nobody waits.
async fn pump(budget: Budget, mut next: Instant) {
    loop {
        tokio::time::sleep_until(next.into()).await;
        let mut state = budget.lock();
        match budget.grant_now(&mut state, Instant::now()) {
            Some(later) => next = later,
            None => {
                state.pumped = false;
                return;
            }
        }
    }
}

/// Somebody who waits.
struct Waiter {
    admit: oneshot::Sender<Turn>,
    priority: Priority,
}

/// A turn on its way to whom it was given: if that one goes away meanwhile, it is over.
struct Turn {
    budget: Option<Budget>,
    priority: Priority,
}

impl Turn {
    fn new(budget: &Budget, priority: Priority) -> Turn {
        Turn { budget: Some(budget.clone()), priority }
    }

    /// It has arrived: its end is told by whoever sends the request.
    fn take(mut self) {
        self.budget = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(budget) = self.budget.take() {
            budget.ended(self.priority);
        }
    }
}

struct Spender {
    budget: Budget,
    priority: Priority,
}

impl Admission for Spender {
    fn admit(&self) -> Pin<Box<dyn Future<Output = Result<(), NotAdmitted>> + Send + '_>> {
        Box::pin(self.budget.admit(self.priority))
    }

    fn answered(&self, answer: Answered) {
        self.budget.answered(answer);
        self.budget.ended(self.priority);
    }
}

fn name(priority: Priority) -> &'static str {
    match priority {
        Priority::Probe => "probe",
        Priority::User => "user",
        Priority::Poll => "poll",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_wait_get_their_turn_and_a_dropped_wait_costs_nothing() {
        let budget = Budget::new(20, LimiterMetrics::default());
        let begun = Instant::now();
        let given_up = budget.admission(Priority::User);
        for _ in 0..2 {
            budget.admit(Priority::User).await.unwrap();
        }
        // Two of the burst are gone: this one waits, and is dropped.
        let dropped = tokio::time::timeout(Duration::from_millis(1), given_up.admit()).await;
        assert!(dropped.is_err());
        let waits = (0..4).map(|_| budget.admit(Priority::Poll));
        assert!(futures::future::join_all(waits).await.iter().all(Result::is_ok));
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(195) && took < Duration::from_secs(2), "{took:?}");
    }

    #[tokio::test]
    async fn a_turn_that_nobody_takes_is_over() {
        let budget = Budget::new(1000, LimiterMetrics::default());
        for _ in 0..50 {
            // Given its turn at once, and gone before it looks.
            let (admit, admitted) = oneshot::channel();
            assert!(budget.arrive(Priority::User, admit, Instant::now()));
            drop(admitted);
        }
        let mut under_way = 0;
        while tokio::time::timeout(Duration::from_millis(200), budget.admit(Priority::User)).await.is_ok() {
            under_way += 1;
            assert!(under_way <= 16, "no end");
        }
        assert_eq!(under_way, 16);
        // Each answer lets another one go.
        let (waits, ()) = tokio::join!(budget.admit(Priority::User), async { budget.ended(Priority::User) });
        assert_eq!(waits, Ok(()));
    }

    #[tokio::test]
    async fn a_long_pause_is_an_error_at_once() {
        let budget = Budget::new(200, LimiterMetrics::default());
        budget.answered(Answered { status: Some(503), retry_after: Some(Duration::from_secs(60)) });
        let begun = Instant::now();
        assert_eq!(budget.admit(Priority::User).await, Err(NotAdmitted));
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}
