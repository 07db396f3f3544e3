//! Points in time as the hub stores them: UTC, in ticks of 100 ns.
//!
//! .NET's `DateTime` counts ticks, the table service keeps seven digits, and a
//! start is only recognised as the row's own if `CreatedTime` and the message's
//! `Timestamp` are the same tick (task-hub.md 7.3). A type that can hold more
//! digits would lose that equality on the way through storage.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};

const NANOSECONDS_PER_TICK: i128 = 100;
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// The first tick of the year 1 and the last one of the year 9999: .NET's `DateTime` ends there, and uses both as marks.
const FIRST_TICK: i64 = -621_355_968_000_000_000;
const LAST_TICK: i64 = 2_534_023_007_999_999_999;

/// A point in time, UTC, with the precision of 100 ns that .NET and the table service have; in the years 1 to 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// 100 ns ticks since 1970-01-01T00:00:00Z; negative before. Within [`FIRST_TICK`] and [`LAST_TICK`].
    ticks: i64,
}

/// The text is no RFC 3339 time, or lies outside of the years 1 to 9999.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a time of the form 2026-11-23T07:29:23.872056Z")]
pub struct TimeError;

impl Time {
    /// The system's clock, cut to ticks.
    pub fn now() -> Time {
        SystemTime::now().into()
    }

    /// Reads an RFC 3339 time, with any offset; digits beyond the seventh are cut.
    ///
    /// # Errors
    /// [`TimeError`] if it is none.
    pub fn parse(text: &str) -> Result<Time, TimeError> {
        let nanoseconds = match text.parse::<Timestamp>() {
            Ok(timestamp) => timestamp.as_nanosecond(),
            // A timestamp of jiff ends a day before the year 9999 does, and so before .NET's `DateTime.MaxValue`.
            Err(_) => {
                let civil: DateTime = text.strip_suffix('Z').ok_or(TimeError)?.parse().map_err(|_| TimeError)?;
                civil.duration_since(EPOCH).as_nanos()
            }
        };
        let ticks = i64::try_from(nanoseconds.div_euclid(NANOSECONDS_PER_TICK)).map_err(|_| TimeError)?;
        if (FIRST_TICK..=LAST_TICK).contains(&ticks) { Ok(Time { ticks }) } else { Err(TimeError) }
    }

    /// This time plus `duration`; the last representable time if that lies beyond.
    pub fn saturating_add(self, duration: Duration) -> Time {
        let ticks = i64::try_from(duration.as_nanos() / 100).unwrap_or(i64::MAX);
        Time { ticks: self.ticks.saturating_add(ticks).min(LAST_TICK) }
    }

    /// This time less `duration`; the first representable time if that lies before.
    pub fn saturating_sub(self, duration: Duration) -> Time {
        let ticks = i64::try_from(duration.as_nanos() / 100).unwrap_or(i64::MAX);
        Time { ticks: self.ticks.saturating_sub(ticks).max(FIRST_TICK) }
    }

    /// The time that has gone by since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: Time) -> Duration {
        let ticks = self.ticks.saturating_sub(earlier.ticks);
        u64::try_from(ticks)
            .map_or(Duration::ZERO, |ticks| Duration::new(ticks / 10_000_000, u32::try_from(ticks % 10_000_000).unwrap_or(0) * 100))
    }

    /// Microseconds since 1970, as sequence numbers of control messages count (task-hub.md 7.6).
    pub fn unix_microseconds(self) -> i64 {
        self.ticks.div_euclid(10)
    }

    /// Whole seconds since 1970, rounded down.
    pub fn unix_seconds(self) -> i64 {
        self.ticks.div_euclid(10_000_000)
    }

    /// The form of the table service: always seven digits.
    pub fn to_table(self) -> String {
        format!("{:.7}Z", self.civil())
    }

    fn civil(self) -> DateTime {
        let since_epoch = SignedDuration::new(self.unix_seconds(), i32::try_from(self.ticks.rem_euclid(10_000_000)).unwrap_or(0) * 100);
        // Cannot overflow: the years 1 to 9999 are within.
        EPOCH.saturating_add(since_epoch)
    }
}

/// The form of messages: up to seven digits, trailing zeros cut, `Z` (task-hub.md 3.3).
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}Z", self.civil())
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Time {
        let nanoseconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i128::try_from(after.as_nanos()).unwrap_or(i128::MAX),
            Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap_or(i128::MAX),
        };
        let ticks =
            i64::try_from(nanoseconds.div_euclid(NANOSECONDS_PER_TICK)).unwrap_or(if nanoseconds < 0 { FIRST_TICK } else { LAST_TICK });
        Time { ticks: ticks.clamp(FIRST_TICK, LAST_TICK) }
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> SystemTime {
        let magnitude = time.ticks.unsigned_abs();
        let duration = Duration::new(magnitude / 10_000_000, u32::try_from(magnitude % 10_000_000).unwrap_or(0) * 100);
        if time.ticks < 0 { SystemTime::UNIX_EPOCH - duration } else { SystemTime::UNIX_EPOCH + duration }
    }
}

impl serde::Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Time::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_cut_trailing_zeros_and_tables_keep_seven_digits() {
        let time = Time::parse("2026-11-23T07:29:23.8720560Z").unwrap();
        assert_eq!(time.to_string(), "2026-11-23T07:29:23.872056Z");
        assert_eq!(time.to_table(), "2026-11-23T07:29:23.8720560Z");
        let whole = Time::parse("2025-03-14T10:00:00Z").unwrap();
        assert_eq!(whole.to_string(), "2025-03-14T10:00:00Z");
        assert_eq!(whole.to_table(), "2025-03-14T10:00:00.0000000Z");
    }

    #[test]
    fn digits_beyond_a_tick_are_cut_and_offsets_become_utc() {
        let time = Time::parse("2025-03-14T11:26:53.589793299+02:00").unwrap();
        assert_eq!(time.to_string(), "2025-03-14T09:26:53.5897932Z");
    }

    #[test]
    fn system_time_round_trips() {
        for text in ["1969-12-31T23:59:59.9999999Z", "2026-01-01T00:00:00.0000001Z"] {
            let time = Time::parse(text).unwrap();
            assert_eq!(Time::from(SystemTime::from(time)), time);
        }
    }

    #[test]
    fn the_first_and_the_last_time_of_dotnet_are_times() {
        for text in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.9999999Z"] {
            let time = Time::parse(text).unwrap();
            assert_eq!(time.to_string(), text);
            assert_eq!(Time::from(SystemTime::from(time)), time);
        }
        let last = Time::parse("9999-12-31T23:59:59.9999999Z").unwrap();
        assert_eq!(last.saturating_add(Duration::MAX), last);
        assert_eq!(last.to_table(), "9999-12-31T23:59:59.9999999Z");
        for text in ["0000-12-31T23:59:59Z", "-000001-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "9999-12-31T23:59:59"] {
            assert_eq!(Time::parse(text), Err(TimeError), "{text}");
        }
    }

    #[test]
    fn differences_saturate() {
        let (early, late) = (Time::parse("2026-01-01T00:00:00Z").unwrap(), Time::parse("2026-01-01T00:00:01.5Z").unwrap());
        assert_eq!(late.since(early), Duration::from_millis(1500));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.saturating_add(Duration::from_millis(1500)), late);
    }
}
