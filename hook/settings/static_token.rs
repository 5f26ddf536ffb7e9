//! `[static-token]`: conditions on tokens that do not expire by themselves.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::civil::Weekday;
use jiff::{Timestamp, Zoned, tz::TimeZone};
use serde::{Deserialize, Deserializer};

use super::{AbsolutePath, duration};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR_MINUTES: u16 = 60;
const DAY_MINUTES: u16 = 24 * HOUR_MINUTES;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AGE_MAX: Duration = DAY.saturating_mul(366);
const STARTS_MAX: u64 = 1_000_000;

/// The days of a week, as a schedule names them.
const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// The conditions on a static token. One that is too old is refused; uses outside of the other conditions are recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct StaticToken {
    /// How old it may be; from a minute to a year.
    #[serde(deserialize_with = "max_age")]
    pub max_age: Option<Duration>,
    /// The addresses that are pinned for it, at 1Password or by a firewall.
    #[serde(deserialize_with = "addresses")]
    pub addresses: Vec<IpNet>,
    /// When containers are expected to be started with it; without any hours, always.
    pub schedule: Vec<Hours>,
    /// How many starts are expected.
    pub rate: Option<Rate>,
}

impl StaticToken {
    /// Whether an address is one of those that are pinned.
    pub fn pins(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|prefix| prefix.contains(&address.to_canonical()))
    }

    /// The same addresses as text: one that is pinned alone without the length of its prefix.
    pub fn pinned(&self) -> Vec<String> {
        let text = |prefix: &IpNet| match prefix.prefix_len() == prefix.max_prefix_len() {
            true => prefix.addr().to_string(),
            false => prefix.to_string(),
        };
        self.addresses.iter().map(text).collect()
    }

    /// The schedule as text.
    pub fn hours(&self) -> String {
        self.schedule.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Whether a start is expected at this time.
    pub fn expects(&self, time: Timestamp) -> bool {
        self.schedule.is_empty() || self.schedule.iter().any(|hours| hours.contain(time))
    }
}

/// Hours of certain days, in UTC: `mon-fri 06:00-20:00`. Those that end before they begin end on the next day.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Hours {
    text: String,
    days: Vec<Weekday>,
    /// Minutes of the day.
    from: u16,
    to: u16,
}

impl Hours {
    fn contain(&self, time: Timestamp) -> bool {
        let time = time.to_zoned(TimeZone::UTC);
        let minute = minute(&time);
        let (today, yesterday) = (time.weekday(), time.weekday().previous());
        if self.from < self.to {
            return self.days.contains(&today) && (self.from..self.to).contains(&minute);
        }
        (self.days.contains(&today) && minute >= self.from) || (self.days.contains(&yesterday) && minute < self.to)
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Hours {
    type Err = HoursError;

    fn from_str(text: &str) -> Result<Hours, HoursError> {
        let (days, hours) = match text.split_once(' ') {
            Some((days, hours)) => (days_of(days)?, hours),
            None => (DAYS.iter().map(|(_, day)| *day).collect(), text),
        };
        let (from, to) = hours.split_once('-').ok_or(HoursError)?;
        let (from, to) = (minute_of(from)?, minute_of(to)?);
        if from == to || from == DAY_MINUTES {
            return Err(HoursError);
        }
        Ok(Hours { text: text.to_owned(), days, from, to })
    }
}

impl TryFrom<String> for Hours {
    type Error = HoursError;

    fn try_from(text: String) -> Result<Hours, HoursError> {
        text.parse()
    }
}

/// How many starts are expected within how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The most starts.
    #[serde(deserialize_with = "starts")]
    pub starts: u64,
    /// In this time; from a minute to a day.
    #[serde(deserialize_with = "within")]
    pub within: Duration,
}

/// A file with a static token: a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile {
    path: AbsolutePath,
    /// How old the token may be: `max-age` of `[static-token]`, which is for every such token.
    pub max_age: Option<Duration>,
}

impl From<AbsolutePath> for TokenFile {
    fn from(path: AbsolutePath) -> TokenFile {
        TokenFile { path, max_age: None }
    }
}

impl Deref for TokenFile {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

fn minute(time: &Zoned) -> u16 {
    u16::from(time.hour().unsigned_abs()) * HOUR_MINUTES + u16::from(time.minute().unsigned_abs())
}

/// `mon`, `mon-fri` or `mon,wed-fri`.
fn days_of(text: &str) -> Result<Vec<Weekday>, HoursError> {
    let day = |name: &str| DAYS.iter().find(|(known, _)| *known == name).map(|(_, day)| *day).ok_or(HoursError);
    let mut days = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        days.extend(first.cycle_forward().take(7).take_while(|day| *day != last));
        days.push(last);
    }
    Ok(days)
}

/// `00:00` to `24:00`.
fn minute_of(text: &str) -> Result<u16, HoursError> {
    let two_digits = |text: &str| match text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u16>().map_err(|_| HoursError),
        false => Err(HoursError),
    };
    let (hour, minute) = text.split_once(':').ok_or(HoursError)?;
    let (hour, minute) = (two_digits(hour)?, two_digits(minute)?);
    let minutes = hour * HOUR_MINUTES + minute;
    if minute < HOUR_MINUTES && minutes <= DAY_MINUTES { Ok(minutes) } else { Err(HoursError) }
}

fn max_age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer, MINUTE..=AGE_MAX, "expected a duration from \"1m\" to \"8784h\"").map(Some)
}

fn within<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration(deserializer, MINUTE..=DAY, "expected a duration from \"1m\" to \"24h\"")
}

fn starts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let starts = u64::deserialize(deserializer)?;
    match (1..=STARTS_MAX).contains(&starts) {
        true => Ok(starts),
        false => Err(serde::de::Error::custom(format!("expected a number from 1 to {STARTS_MAX}"))),
    }
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let prefix = |text: &String| {
        let alone = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse::<IpNet>().ok().or_else(alone).map(|prefix| prefix.trunc())
    };
    let prefixes: Option<Vec<IpNet>> = Vec::<String>::deserialize(deserializer)?.iter().map(prefix).collect();
    prefixes.ok_or_else(|| serde::de::Error::custom("expected addresses as 203.0.113.7, or prefixes as 203.0.113.0/24"))
}

/// A text that names no hours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected hours in UTC as \"mon-fri 06:00-20:00\" or \"22:00-04:00\"")]
pub struct HoursError;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{OpUnlock, Settings, TokenSource};

    fn conditions(keys: &str) -> Result<StaticToken, String> {
        let settings = format!("[static-token]\n{keys}").parse::<Settings>().map_err(|error| error.to_string())?;
        Ok(settings.static_token.unwrap())
    }

    /// Whether these hours contain a time of a week whose first day, the 5th, is a Monday.
    fn contain(hours: &str, time: &str) -> bool {
        hours.parse::<Hours>().unwrap().contain(format!("2026-01-{time}:00Z").parse().unwrap())
    }

    #[test]
    fn hours_are_of_their_days_alone() {
        for (hours, inside, outside) in [
            ("mon-fri 06:00-20:00", ["05T06:00", "09T19:59"], ["05T05:59", "09T20:00"]),
            ("mon-fri 06:00-20:00", ["07T12:00", "08T12:00"], ["10T12:00", "11T12:00"]),
            ("06:00-20:00", ["10T06:00", "11T19:59"], ["10T05:59", "11T20:00"]),
            ("sat,sun 00:00-24:00", ["10T00:00", "11T23:59"], ["09T23:59", "12T00:00"]),
            ("fri-mon 08:00-09:00", ["09T08:00", "12T08:59"], ["13T08:00", "08T08:30"]),
            ("fri 22:00-04:00", ["09T22:00", "10T03:59"], ["10T04:00", "09T03:59"]),
            ("sun 22:00-04:00", ["11T22:00", "12T03:59"], ["12T22:00", "11T03:59"]),
            ("mon,wed 08:00-09:00", ["05T08:00", "07T08:00"], ["06T08:00", "08T08:00"]),
        ] {
            assert!(inside.iter().all(|time| contain(hours, time)), "{hours} lacks one of {inside:?}");
            assert!(!outside.iter().any(|time| contain(hours, time)), "{hours} has one of {outside:?}");
        }
    }

    #[test]
    fn refuses_hours_that_are_none_and_does_not_repeat_them() {
        for hours in [
            "",
            "canary",
            "mon",
            "mon ",
            "mon 06:00",
            "mon 6:00-20:00",
            "mon 06:00-20:60",
            "mon 06:00-24:01",
            "mon 24:00-06:00",
            "mon 06:00-06:00",
            "Mon 06:00-20:00",
            "mon-canary 06:00-20:00",
            "mon,, 06:00-20:00",
            "mon 06:00–20:00",
            "mon  06:00-20:00",
            "mon +6:00-20:00",
            "mon 06:00-20:00 UTC",
        ] {
            let message = conditions(&format!("schedule = ['{hours}']")).unwrap_err();
            assert!(message.contains("expected hours in UTC") && !message.contains("canary"), "{hours}: {message}");
        }
    }

    #[test]
    fn an_address_is_pinned_alone_or_with_its_neighbours() {
        let pinned = conditions("addresses = ['203.0.113.7', '198.51.100.9/24', '2001:db8::/48']").unwrap();
        for (address, is_pinned) in [
            ("203.0.113.7", true),
            ("::ffff:203.0.113.7", true),
            ("203.0.113.8", false),
            ("198.51.100.255", true),
            ("198.51.101.0", false),
            ("2001:db8:0:ffff::1", true),
            ("2001:db8:1::1", false),
        ] {
            assert_eq!(pinned.pins(address.parse().unwrap()), is_pinned, "{address}");
        }
        assert!(conditions("addresses = ['canary.example']").unwrap_err().ends_with("prefixes as 203.0.113.0/24"));
    }

    #[test]
    fn what_would_never_or_always_hold_is_refused() {
        for (key, reason) in [
            ("max-age = '10s'", "expected a duration from \"1m\" to \"8784h\""),
            ("max-age = '9000h'", "expected a duration from \"1m\" to \"8784h\""),
            ("rate = { starts = 0, within = '1h' }", "expected a number from 1 to 1000000"),
            ("rate = { starts = 10, within = '25h' }", "expected a duration from \"1m\" to \"24h\""),
            ("rate = { starts = 10 }", "missing field `within`"),
        ] {
            let message = conditions(key).unwrap_err();
            assert!(message.contains(reason), "{key}: {message}");
        }
    }

    #[test]
    fn every_file_of_a_token_that_stays_the_same_knows_how_old_it_may_be() {
        let text = "[connect]\nurl = 'https://h'\ntoken-file = '/t'\n[op]\nservice-account-token-file = '/s'\n[static-token]\n";
        let ages = |settings: Settings| match (settings.connect.unwrap().token, settings.op.unwrap().unlock) {
            (TokenSource::Static(connect), OpUnlock::ServiceAccount { token_file }) => {
                [connect.max_age, token_file.max_age]
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(ages(text.parse().unwrap()), [None; 2]);
        assert_eq!(ages(format!("{text}max-age = '24h'").parse().unwrap()), [Some(DAY); 2]);
    }
}
