//! Scans of a hub: whether to scan, from when on, and how far the one under way has come.
//!
//! Pure: neither clock nor request. Invariants: a scan begins where the last complete
//! one of its depth began by the service's clock, less an overlap, since rows change
//! behind a cursor; a scan that was broken off moves nothing. A hub whose scans cost
//! more than they spare is read instance by instance, and scanned again later.

use std::collections::VecDeque;
use std::time::Duration;

use durable_taskhub::Time;
use durable_taskhub::changes::{ChangesPage, ChangesRequest, KeyRange};
use durable_taskhub::storage::Continuation;
use tokio::time::Instant;

use super::schedule;
use crate::hubs::PollingLimits;

/// What a deep scan goes back behind the start of the last one: a row's time can be older than its appearance.
const DEEP_OVERLAP: Duration = Duration::from_secs(60);

/// What the scans between go back, for the whole seconds of dates: with a minute, each row that changes would be read sixty times.
const OVERLAP: Duration = Duration::from_secs(5);

/// The time between two deep scans.
const DEEP_EVERY: Duration = Duration::from_secs(10);

/// The time between two scans for what was long there: a restart brings thousands to follow within seconds, not at once.
const FULL_EVERY: Duration = Duration::from_secs(2);

/// How long a hub is not scanned that was too dear; doubled each time up to [`LONGEST_DEAR`].
const DEAR_FOR: Duration = Duration::from_secs(60);
const LONGEST_DEAR: Duration = Duration::from_secs(960);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Whatever there is, as far as it spares reads: much is followed of which nothing is known yet.
    Full,
    Deep,
    Quick,
}

/// Where the scans of a hub are.
#[derive(Debug)]
pub struct Scanner {
    scanning: bool,
    due: Instant,
    underway: Option<Underway>,
    /// When the last complete scan of any depth began, and the last deep one; by the service's clock.
    quick_from: Option<Time>,
    deep_from: Option<Time>,
    deep_due: Instant,
    full_due: Instant,
    dear_until: Option<Instant>,
    dear_for: Duration,
}

#[derive(Debug)]
struct Underway {
    depth: Depth,
    since: Option<Time>,
    ranges: VecDeque<KeyRange>,
    continuation: Option<Continuation>,
    begun: Instant,
    date: Option<Time>,
    pages: usize,
    most_pages: usize,
}

/// What a page was for its scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There is more to read.
    More,
    /// It was the last one.
    Complete,
    /// The scan costs too much and is broken off.
    GivenUp,
}

impl Scanner {
    /// Nothing was scanned.
    pub fn new(now: Instant) -> Scanner {
        Scanner {
            scanning: false,
            due: now,
            underway: None,
            quick_from: None,
            deep_from: None,
            deep_due: now,
            full_due: now,
            dear_until: None,
            dear_for: DEAR_FOR,
        }
    }

    /// True while scans show what changes.
    pub fn is_scanning(&self) -> bool {
        self.scanning
    }

    /// Decides between scans and points; true if that changed.
    pub fn choose(&mut self, active: usize, now: Instant) -> bool {
        let wanted = self.wants(active, now);
        if wanted == self.scanning {
            return false;
        }
        // What a scan said before the points took over is of no use after them.
        *self = Scanner { scanning: wanted, dear_until: self.dear_until, dear_for: self.dear_for, ..Scanner::new(now) };
        true
    }

    fn wants(&self, active: usize, now: Instant) -> bool {
        schedule::scans_rather(self.scanning, active, self.dear_until.is_some_and(|until| until > now))
    }

    /// When there is something to do for scans; none while points are read.
    pub fn next_due(&self, active: usize, now: Instant) -> Option<Instant> {
        if self.wants(active, now) != self.scanning || self.underway.is_some() {
            return Some(now);
        }
        self.scanning.then_some(self.due)
    }

    /// How much later than it was due a scan begins now; none if one is under way.
    pub fn lag(&self, now: Instant) -> Option<Duration> {
        self.underway.is_none().then(|| now.saturating_duration_since(self.due))
    }

    /// The next page to ask for, of the scan under way or of a new one; none if none is due.
    ///
    /// `ranges` are the keys of the `active` instances that are followed; `unseen` is the number of those of which nothing is known
    /// and which are to be read now.
    pub fn request(
        &mut self,
        active: usize,
        unseen: usize,
        ranges: impl FnOnce() -> Vec<KeyRange>,
        columns: &[&str],
        now: Instant,
    ) -> Option<ChangesRequest> {
        let catches_up = schedule::catches_up(unseen) && self.full_due <= now;
        if !self.scanning || (self.underway.is_none() && self.due > now && !catches_up) {
            return None;
        }
        if self.underway.is_none() {
            let (depth, since, most_pages) = match (self.deep_from, self.quick_from) {
                _ if catches_up => (Depth::Full, None, schedule::most_full_pages(unseen)),
                (Some(from), _) if self.deep_due <= now => {
                    (Depth::Deep, Some(from.saturating_sub(DEEP_OVERLAP)), schedule::most_pages(active))
                }
                (Some(_), Some(from)) => (Depth::Quick, Some(from.saturating_sub(OVERLAP)), schedule::most_pages(active)),
                _ => (Depth::Full, None, schedule::most_full_pages(unseen)),
            };
            let ranges: VecDeque<KeyRange> = ranges().into();
            let most_pages = most_pages.max(ranges.len());
            self.underway = Some(Underway { depth, since, ranges, continuation: None, begun: now, date: None, pages: 0, most_pages });
        }
        let underway = self.underway.as_ref()?;
        Some(ChangesRequest {
            since: underway.since,
            range: underway.ranges.front().cloned(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            continuation: underway.continuation.clone(),
        })
    }

    /// A page came.
    pub fn page(&mut self, page: &ChangesPage, limits: PollingLimits, now: Instant) -> Progress {
        let Some(mut underway) = self.underway.take() else { return Progress::Complete };
        underway.pages += 1;
        underway.date = underway.date.or(page.date);
        underway.continuation.clone_from(&page.continuation);
        if underway.continuation.is_none() {
            underway.ranges.pop_front();
        }
        let done = underway.ranges.is_empty();
        let enough = underway.pages >= underway.most_pages;
        match (underway.date, done) {
            (_, false) if !enough => {
                self.underway = Some(underway);
                return Progress::More;
            }
            (Some(_), false) if underway.depth == Depth::Full => {}
            (None, _) | (_, false) => {
                self.give_up(now);
                return Progress::GivenUp;
            }
            (Some(_), true) => {}
        }
        let interval = schedule::scan_interval(limits, now.duration_since(underway.begun));
        if underway.depth == Depth::Full {
            self.full_due = underway.begun + interval.max(FULL_EVERY);
        }
        // One that was cut short shows what changed only if nothing else did before.
        if done || self.deep_from.is_none() {
            self.quick_from = underway.date;
            if underway.depth != Depth::Quick {
                self.deep_from = underway.date;
                self.deep_due = now + DEEP_EVERY;
            }
        }
        if underway.depth == Depth::Deep {
            self.dear_for = DEAR_FOR;
        }
        self.due = underway.begun + interval;
        Progress::Complete
    }

    /// The hub did not answer: the scan begins again.
    pub fn break_off(&mut self) {
        self.underway = None;
    }

    /// Scans are too dear for some time.
    pub fn give_up(&mut self, now: Instant) {
        self.underway = None;
        self.dear_until = Some(now + self.dear_for);
        self.dear_for = (self.dear_for * 2).min(LONGEST_DEAR);
    }
}

#[cfg(test)]
mod tests {
    use durable_taskhub::changes::InstanceKey;

    use super::*;

    const LIMITS: PollingLimits = PollingLimits { min: Duration::from_secs(1), max: Duration::from_secs(60) };

    fn time(text: &str) -> Time {
        Time::parse(&format!("2026-01-01T{text}Z")).unwrap()
    }

    fn page(date: Option<&str>, more: bool) -> ChangesPage {
        let continuation = more.then(|| Continuation::new("key".to_owned(), None));
        ChangesPage { changes: Vec::new(), rows: 7, continuation, date: date.map(time) }
    }

    fn ranges() -> Vec<KeyRange> {
        vec![
            KeyRange::spanning(InstanceKey::of("1"), &InstanceKey::of("9")),
            KeyRange::spanning(InstanceKey::of("a"), &InstanceKey::of("z")),
        ]
    }

    fn scanner(now: Instant) -> Scanner {
        let mut scanner = Scanner::new(now);
        assert!(scanner.choose(1000, now));
        scanner
    }

    /// One whole scan that the service began at `date`; since when it looked.
    fn scan(scanner: &mut Scanner, date: &str, now: Instant) -> Option<Time> {
        let request = scanner.request(1000, 0, ranges, &[], now).expect("a scan is due");
        assert_eq!(request.range.as_ref(), ranges().first());
        assert_eq!(scanner.page(&page(Some(date), false), LIMITS, now), Progress::More);
        assert_eq!(scanner.request(1000, 0, ranges, &[], now).unwrap().range.as_ref(), ranges().last());
        // The date of a later page is not the start of the scan.
        assert_eq!(scanner.page(&page(Some("23:00:00"), false), LIMITS, now), Progress::Complete);
        request.since
    }

    #[test]
    fn each_scan_begins_before_the_start_of_the_last_complete_one() {
        let start = Instant::now();
        let second = |number| start + Duration::from_secs(number);
        let mut scanner = scanner(start);
        assert_eq!(scan(&mut scanner, "10:00:00", start), None);
        assert!(scanner.request(1000, 0, ranges, &[], start).is_none(), "the next one is due in a second");
        assert_eq!(scan(&mut scanner, "10:00:01", second(1)), Some(time("09:59:55")));
        assert_eq!(scan(&mut scanner, "10:00:02", second(2)), Some(time("09:59:56")));
        // A broken one moves nothing.
        scanner.request(1000, 0, ranges, &[], second(3)).unwrap();
        scanner.page(&page(Some("10:00:03"), false), LIMITS, second(3));
        scanner.break_off();
        assert_eq!(scan(&mut scanner, "10:00:09", second(9)), Some(time("09:59:57")));
        // A deep one starts a minute before the last deep one, whatever the others said.
        assert_eq!(scan(&mut scanner, "10:00:10", second(10)), Some(time("09:59:00")));
        assert_eq!(scan(&mut scanner, "10:00:11", second(11)), Some(time("10:00:05")));
        // After an hour without an answer nothing of that hour is left out.
        assert_eq!(scan(&mut scanner, "11:00:11", second(3611)), Some(time("09:59:10")));
    }

    #[test]
    fn a_scan_that_costs_too_much_gives_way_to_points_for_a_while() {
        let start = Instant::now();
        let mut scanner = scanner(start);
        // 64 of which nothing is known: two pages may tell of them, and then points go on.
        scanner.request(64, 64, ranges, &["Owner"], start).unwrap();
        assert_eq!(scanner.page(&page(Some("10:00:00"), true), LIMITS, start), Progress::More);
        assert!(scanner.request(64, 64, ranges, &[], start).unwrap().continuation.is_some());
        assert_eq!(scanner.page(&page(Some("10:00:00"), true), LIMITS, start), Progress::Complete);

        let mut now = start + Duration::from_secs(1);
        for dear in [60, 120, 240, 480, 960, 960] {
            assert!(scanner.is_scanning());
            let mut progress = Progress::More;
            let mut pages = 0;
            while progress == Progress::More {
                scanner.request(64, 0, ranges, &[], now).expect("a scan is due");
                progress = scanner.page(&page(Some("10:00:01"), true), LIMITS, now);
                pages += 1;
                // The first scan after points is cut short, and not yet a judgement.
                if progress == Progress::Complete {
                    now += Duration::from_secs(1);
                    progress = Progress::More;
                    pages = 0;
                }
            }
            assert_eq!((progress, pages), (Progress::GivenUp, 4));
            assert!(scanner.choose(64, now) && !scanner.is_scanning());
            assert_eq!(scanner.next_due(64, now), None);
            assert!(!scanner.choose(64, now + Duration::from_secs(dear - 1)));
            now += Duration::from_secs(dear);
            assert!(scanner.choose(64, now));
        }
    }

    #[test]
    fn what_is_new_to_us_but_long_there_is_found_in_pages() {
        let start = Instant::now();
        let second = |number| start + Duration::from_secs(number);
        let mut scanner = scanner(start);
        scan(&mut scanner, "10:00:00", start);
        // Many more are followed now. What they are is asked for at once, but not again and again.
        assert!(scanner.request(1000, 500, ranges, &[], start).is_none());
        assert_eq!(scan(&mut scanner, "10:00:01", second(1)), Some(time("09:59:55")));
        assert_eq!(scanner.request(1000, 500, ranges, &[], second(2)).unwrap().since, None);
        // It has 15 pages at most, and is cut short: what changed since the last scan is still looked for.
        let progress: Vec<Progress> = (0..15).map(|_| scanner.page(&page(Some("10:00:02"), true), LIMITS, second(2))).collect();
        assert_eq!((progress[13], progress[14]), (Progress::More, Progress::Complete));
        assert_eq!(scan(&mut scanner, "10:00:03", second(3)), Some(time("09:59:56")));
        scan(&mut scanner, "10:00:10", second(10));
        assert_eq!(scan(&mut scanner, "10:00:20", second(20)), Some(time("09:59:10")));
    }

    #[test]
    fn without_the_services_clock_there_are_no_scans() {
        let start = Instant::now();
        let mut scanner = scanner(start);
        scanner.request(64, 0, || ranges().split_off(1), &[], start).unwrap();
        assert_eq!(scanner.page(&page(None, false), LIMITS, start), Progress::GivenUp);
        assert!(scanner.choose(64, start) && !scanner.is_scanning());
    }

    #[test]
    fn a_new_choice_is_made_at_once() {
        let now = Instant::now();
        let mut scanner = Scanner::new(now);
        assert_eq!(scanner.next_due(1, now), None);
        assert_eq!(scanner.next_due(1000, now), Some(now));
        assert!(scanner.choose(1000, now) && !scanner.choose(1000, now));
        assert_eq!(scanner.next_due(1, now), Some(now));
        assert!(scanner.choose(1, now));
    }
}
