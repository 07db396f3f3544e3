//! Who may send next, and when. Pure: the time comes in, nothing waits here.
//!
//! Owns the order of those who wait. Invariants: work that a user caused goes before
//! polls, but of [`POLL_SHARE`] admissions one is a poll's; whoever would wait longer
//! than is useful is refused at once instead of queued; a hub that does not answer
//! holds at most [`MOST_AT_ONCE`] of those who work for all hubs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// While both wait, one of so many admissions is a poll's: a busy hub is still seen.
const POLL_SHARE: u32 = 8;

/// Requests that may go at once after a rest, as a part of a second's: enough for an apply of a few objects.
const BURST: f64 = 0.1;

/// The pause after the first answer that asks for fewer requests, doubled after each pause that did not help.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause that we choose ourselves.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause that a `Retry-After` gets: a header made of nonsense must not stop a hub for a day.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(300);

/// Requests of users under way at once: a controller works on 32 objects, and a silent hub must not hold them all.
const MOST_AT_ONCE: usize = 16;

/// When so many are under way and none was answered for this time, further ones are refused: they would wait in vain.
const SILENT_AFTER: Duration = Duration::from_secs(2);

/// A pause longer than this is not waited for by those who also work for other hubs.
const LONGEST_WAITED_PAUSE: Duration = Duration::from_secs(1);

/// Why a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Whether the hub answers at all: asked while it does not answer others, too.
    Probe,
    /// Somebody wants something done.
    User,
    /// The operator looks whether something has changed.
    Poll,
}

/// The budget of a hub, with those who wait for it.
#[derive(Debug)]
pub struct Turns<W> {
    rate: f64,
    tokens: f64,
    counted: Instant,
    probes: VecDeque<W>,
    users: VecDeque<W>,
    polls: VecDeque<W>,
    /// Requests of users that were admitted and not answered.
    under_way: usize,
    /// The last answer, or the first request after all were answered.
    heard: Instant,
    /// Admissions of users since the last one of a poll that waited.
    users_in_a_row: u32,
    closed_until: Option<Instant>,
    pauses: u32,
}

impl<W> Turns<W> {
    /// A full budget of `rate` requests a second.
    pub fn new(rate: u32, now: Instant) -> Turns<W> {
        let rate = f64::from(rate.max(1));
        Turns {
            rate,
            tokens: burst(rate),
            counted: now,
            probes: VecDeque::new(),
            users: VecDeque::new(),
            polls: VecDeque::new(),
            under_way: 0,
            heard: now,
            users_in_a_row: 0,
            closed_until: None,
            pauses: 0,
        }
    }

    /// Another rate from now on.
    pub fn set_rate(&mut self, rate: u32, now: Instant) {
        self.refill(now);
        self.rate = f64::from(rate.max(1));
        self.tokens = self.tokens.min(burst(self.rate));
    }

    /// Queues `waiter`, or gives it back if it would wait longer than `limit`.
    pub fn arrive(&mut self, priority: Priority, waiter: W, limit: Duration, now: Instant) -> Result<(), W> {
        if self.expected_wait(priority, now) > limit || self.waits_in_vain(priority, now) {
            return Err(waiter);
        }
        match priority {
            Priority::Probe => self.probes.push_back(waiter),
            Priority::User => self.users.push_back(waiter),
            Priority::Poll => self.polls.push_back(waiter),
        }
        Ok(())
    }

    /// True for one that holds up work for other hubs while this one gives no answers, or asked for a long pause.
    pub fn waits_in_vain(&self, priority: Priority, now: Instant) -> bool {
        let silent = self.under_way >= MOST_AT_ONCE && now.saturating_duration_since(self.heard) >= SILENT_AFTER;
        let paused = self.closed_until.is_some_and(|until| until.saturating_duration_since(now) > LONGEST_WAITED_PAUSE);
        (silent || paused) && priority == Priority::User
    }

    /// How long one that arrives now waits, if nobody of a higher priority comes after it.
    fn expected_wait(&self, priority: Priority, now: Instant) -> Duration {
        let pause = self.closed_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let (users, polls) = (self.users.len(), self.polls.len());
        let before = match priority {
            Priority::Probe => self.probes.len(),
            // Polls get their share while they wait.
            Priority::User => users + polls.min(users / (POLL_SHARE as usize - 1)),
            Priority::Poll => polls + users.min(polls.saturating_add(1).saturating_mul(POLL_SHARE as usize - 1)),
        };
        let before = f64::from(u32::try_from(before).unwrap_or(u32::MAX));
        pause + Duration::from_secs_f64(((before - self.tokens) / self.rate).max(0.0))
    }

    /// Admits those whose turn it is, as far as `admitted` takes them (one that has gone away does not count). When to ask again;
    /// none if nobody waits, or only for an answer.
    pub fn grant(&mut self, now: Instant, mut admitted: impl FnMut(W) -> bool) -> Option<Instant> {
        self.refill(now);
        loop {
            let next = self.next()?;
            if let Some(until) = self.closed_until.filter(|until| *until > now) {
                return Some(until);
            }
            if self.tokens < 1.0 {
                // A moment late rather than early: one that comes too early goes round for nothing.
                return Some(now + Duration::from_secs_f64((1.0 - self.tokens) / self.rate) + Duration::from_micros(50));
            }
            let waiter = match next {
                Priority::Probe => self.probes.pop_front(),
                Priority::User => self.users.pop_front(),
                Priority::Poll => self.polls.pop_front(),
            };
            if !waiter.is_some_and(&mut admitted) {
                continue;
            }
            self.tokens -= 1.0;
            match next {
                Priority::Probe => {}
                Priority::Poll => self.users_in_a_row = 0,
                Priority::User => {
                    self.users_in_a_row = self.users_in_a_row.saturating_add(1);
                    if self.under_way == 0 {
                        self.heard = now;
                    }
                    self.under_way += 1;
                }
            }
        }
    }

    /// Whose turn it is among those who may go.
    fn next(&self) -> Option<Priority> {
        let user = !self.users.is_empty() && self.under_way < MOST_AT_ONCE;
        match (user, !self.polls.is_empty()) {
            _ if !self.probes.is_empty() => Some(Priority::Probe),
            (true, true) if self.users_in_a_row + 1 >= POLL_SHARE => Some(Priority::Poll),
            (true, _) => Some(Priority::User),
            (false, true) => Some(Priority::Poll),
            (false, false) => None,
        }
    }

    /// A request of this priority has come to its end, with or without an answer.
    pub fn ended(&mut self, priority: Priority) {
        if priority == Priority::User {
            self.under_way = self.under_way.saturating_sub(1);
        }
    }

    /// The hub answered with `status`. True if it asked for fewer requests. `chance` is 0 to 1000.
    pub fn answered(&mut self, status: Option<u16>, retry_after: Option<Duration>, chance: u32, now: Instant) -> bool {
        let paused = self.closed_until.is_some_and(|until| until > now);
        if status.is_some() {
            self.heard = now;
        }
        if !matches!(status, Some(429 | 503)) {
            // What was on its way when the pause began proves nothing about it.
            if status.is_some() && !paused {
                self.pauses = 0;
            }
            return false;
        }
        // Those that were on their way together count once.
        if !paused {
            self.pauses = self.pauses.saturating_add(1);
        }
        let pause = match retry_after {
            Some(asked) => asked.min(LONGEST_ASKED_PAUSE),
            None => {
                let doubled = FIRST_PAUSE.saturating_mul(1 << (self.pauses.max(1) - 1).min(16)).min(LONGEST_PAUSE);
                // Up to a fifth shorter: other clients of the account were asked at the same moment.
                doubled - doubled * chance.min(1000) / 5000
            }
        };
        if retry_after.is_some() || !paused {
            self.closed_until = self.closed_until.max(Some(now + pause));
        }
        // It begins again with one request and not with all that was saved up.
        self.tokens = self.tokens.min(1.0);
        true
    }

    fn refill(&mut self, now: Instant) {
        // Nothing is saved up during a pause.
        let from = self.closed_until.map_or(self.counted, |until| until.max(self.counted));
        let gone = now.saturating_duration_since(from);
        self.tokens = (self.tokens + gone.as_secs_f64() * self.rate).min(burst(self.rate));
        self.counted = self.counted.max(now);
    }
}

fn burst(rate: f64) -> f64 {
    (rate * BURST).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// All that are admitted until `end`, with the time of each in milliseconds.
    fn run(turns: &mut Turns<&'static str>, from: Instant, end: Instant) -> Vec<(&'static str, u128)> {
        let (mut now, mut admitted) = (from, Vec::new());
        loop {
            let before = admitted.len();
            let next = turns.grant(now, |who| {
                admitted.push((who, now.duration_since(from).as_millis()));
                true
            });
            // Each is answered at once.
            admitted[before..].iter().filter(|(who, _)| *who == "user").for_each(|_| turns.ended(Priority::User));
            match next {
                Some(next) if next <= end => {
                    assert!(next > now, "asked again at once");
                    now = next;
                }
                _ if admitted.len() > before => {}
                _ => return admitted,
            }
        }
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let start = Instant::now();
        let mut turns = Turns::new(100, start);
        for _ in 0..40 {
            turns.arrive(Priority::User, "user", LIMIT, start).unwrap();
        }
        let admitted = run(&mut turns, start, start + Duration::from_secs(60));
        assert_eq!(admitted.len(), 40);
        assert_eq!(admitted.iter().filter(|(_, at)| *at == 0).count(), 10);
        assert!((295..=320).contains(&admitted[39].1), "{admitted:?}");
        assert_eq!(turns.grant(start, |_| true), None);
    }

    #[test]
    fn users_go_first_and_polls_do_not_starve() {
        let start = Instant::now();
        let mut turns = Turns::new(10, start);
        for _ in 0..4 {
            turns.arrive(Priority::Poll, "poll", LIMIT, start).unwrap();
        }
        for _ in 0..20 {
            turns.arrive(Priority::User, "user", LIMIT, start).unwrap();
        }
        let order: Vec<&str> = run(&mut turns, start, start + Duration::from_secs(60)).into_iter().map(|(who, _)| who).collect();
        assert_eq!(order.iter().position(|who| *who == "poll"), Some(7), "{order:?}");
        assert_eq!(order[..16].iter().filter(|who| **who == "poll").count(), 2, "{order:?}");
        assert_eq!(order.len(), 24);
        // A user that comes while polls wait is the next one.
        let later = start + Duration::from_secs(60);
        for who in ["poll", "poll", "poll"] {
            turns.arrive(Priority::Poll, who, LIMIT, later).unwrap();
        }
        turns.arrive(Priority::User, "user", LIMIT, later).unwrap();
        assert_eq!(run(&mut turns, later, later + Duration::from_secs(9))[0].0, "user");
    }

    #[test]
    fn a_silent_hub_holds_some_requests_and_refuses_the_rest() {
        let start = Instant::now();
        let mut turns = Turns::new(1000, start);
        for _ in 0..20 {
            turns.arrive(Priority::User, "user", LIMIT, start).unwrap();
        }
        turns.arrive(Priority::Poll, "poll", LIMIT, start).unwrap();
        let mut sent = Vec::new();
        let mut grant = |turns: &mut Turns<&'static str>, now| {
            turns.grant(now, |who| {
                sent.push(who);
                true
            })
        };
        // Nobody waits for a time any more, only for an answer.
        assert_eq!(grant(&mut turns, start), None);
        turns.arrive(Priority::User, "user", LIMIT, start + Duration::from_secs(1)).unwrap();
        let silent = start + Duration::from_secs(2);
        assert_eq!(turns.arrive(Priority::User, "user", LIMIT, silent), Err("user"));
        turns.arrive(Priority::Probe, "probe", LIMIT, silent).unwrap();
        turns.arrive(Priority::Poll, "poll", LIMIT, silent).unwrap();
        assert_eq!(grant(&mut turns, silent), None);
        turns.ended(Priority::User);
        turns.answered(Some(200), None, 0, silent);
        assert_eq!(grant(&mut turns, silent), None);
        turns.arrive(Priority::User, "user", LIMIT, silent).unwrap();
        let of = |kind: &str| sent.iter().filter(|who| **who == kind).count();
        assert_eq!((of("user"), of("poll"), of("probe")), (MOST_AT_ONCE + 1, 2, 1));
    }

    #[test]
    fn one_that_has_gone_away_costs_nothing() {
        let start = Instant::now();
        let mut turns = Turns::new(1, start);
        turns.arrive(Priority::User, "gone", LIMIT, start).unwrap();
        turns.arrive(Priority::User, "here", LIMIT, start).unwrap();
        let mut order = Vec::new();
        let next = turns.grant(start, |who| {
            order.push(who);
            who != "gone"
        });
        assert_eq!((order, next), (vec!["gone", "here"], None));
    }

    #[test]
    fn nobody_waits_longer_than_is_useful() {
        let start = Instant::now();
        let mut turns = Turns::new(10, start);
        let queued = (0..1000).filter(|_| turns.arrive(Priority::User, "user", LIMIT, start).is_ok()).count();
        assert_eq!(queued, 52);
        // The polls' share of what comes is small, and so is the number of those who wait for it.
        let polls = (0..1000).filter(|_| turns.arrive(Priority::Poll, "poll", LIMIT, start).is_ok()).count();
        assert!((1..=7).contains(&polls), "{polls}");
        let mut turns = Turns::new(10, start);
        turns.answered(Some(503), Some(Duration::from_secs(6)), 0, start);
        assert_eq!(turns.arrive(Priority::Poll, "poll", LIMIT, start), Err("poll"));
        assert_eq!(turns.arrive(Priority::User, "user", LIMIT, start + Duration::from_secs(2)), Err("user"));
        assert!(turns.waits_in_vain(Priority::User, start) && !turns.waits_in_vain(Priority::Poll, start));
        turns.arrive(Priority::User, "user", LIMIT, start + Duration::from_secs(5)).unwrap();
        turns.arrive(Priority::Poll, "poll", LIMIT, start + Duration::from_secs(2)).unwrap();
        assert_eq!(turns.grant(start + Duration::from_secs(2), |_| true), Some(start + Duration::from_secs(6)));
    }

    #[test]
    fn the_hub_is_left_alone_as_long_as_it_asks_for() {
        let start = Instant::now();
        let mut turns = Turns::new(1000, start);
        assert!(!turns.answered(Some(404), None, 0, start) && !turns.answered(None, None, 0, start));
        assert!(turns.answered(Some(429), Some(Duration::from_secs(3)), 0, start));
        turns.arrive(Priority::Poll, "poll", LIMIT, start).unwrap();
        assert_eq!(turns.grant(start, |_| true), Some(start + Duration::from_secs(3)));
        // Another answer to a request of the same moment does not make it shorter.
        turns.answered(Some(503), None, 0, start);
        assert_eq!(turns.grant(start, |_| true), Some(start + Duration::from_secs(3)));
        assert_eq!(turns.grant(start + Duration::from_secs(3), |_| true), None);
        // Nothing was saved up.
        for _ in 0..10 {
            turns.arrive(Priority::User, "user", LIMIT, start + Duration::from_secs(3)).unwrap();
        }
        let mut at_once = 0;
        turns.grant(start + Duration::from_secs(3), |_| {
            at_once += 1;
            true
        });
        assert_eq!(at_once, 0);
        turns.answered(Some(429), Some(Duration::from_secs(86_400)), 0, start + Duration::from_secs(4));
        assert_eq!(turns.grant(start + Duration::from_secs(4), |_| true), Some(start + Duration::from_secs(304)));
    }

    #[test]
    fn pauses_double_up_to_half_a_minute_and_shrink_after_an_answer() {
        let mut now = Instant::now();
        let mut turns = Turns::new(1000, now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            // Many requests were on their way; together they are one reason to pause.
            for _ in 0..50 {
                turns.answered(Some(503), None, 0, now);
            }
            turns.arrive(Priority::Poll, "poll", Duration::MAX, now).unwrap();
            let next = turns.grant(now, |_| true).unwrap();
            pauses.push(next.duration_since(now).as_millis());
            now = next;
            turns.grant(now, |_| true);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000]);
        turns.answered(Some(200), None, 0, now);
        turns.answered(Some(503), None, 1000, now);
        turns.arrive(Priority::Poll, "poll", LIMIT, now).unwrap();
        assert_eq!(turns.grant(now, |_| true), Some(now + Duration::from_millis(80)));
    }

    #[test]
    fn another_rate_holds_from_now_on() {
        let start = Instant::now();
        let mut turns = Turns::new(1000, start);
        turns.set_rate(1, start);
        for _ in 0..3 {
            turns.arrive(Priority::User, "user", LIMIT, start).unwrap();
        }
        let admitted = run(&mut turns, start, start + Duration::from_secs(10));
        assert!(admitted.len() == 3 && admitted[2].1 >= 2000, "{admitted:?}");
    }
}
