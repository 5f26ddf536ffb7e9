//! Tokens that stay the same until someone changes them, and under which conditions they are used.
//!
//! Only the age decides: a token that is too old is not used. From where it is used, when and how often is recorded, and what was not
//! expected is marked. That is seen of this host alone: who has taken the token elsewhere shows in 1Password's own account of it.

mod starts;
pub mod token_age;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::Origin;
use crate::run_directory;
use crate::settings::{Rate, StaticToken};
use starts::{Starts, StartsError};

pub use self::token_age::OutdatedError;

/// A static token that was shown to someone.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Who gave it.
    pub origin: Origin,
    /// Its issue time, if known.
    pub made: Option<Timestamp>,
    /// From which address of this host, if known.
    pub address: Option<IpAddr>,
}

/// The use of a static token by one start.
#[derive(serde::Serialize)]
pub struct Use {
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    /// The addresses that the settings name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pinned: Vec<String>,
    /// How many there were in the time of the rate, up to this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    starts: Option<u64>,
    anomalies: Vec<Anomaly>,
}

impl Use {
    /// Looks at the use by a start, and counts it.
    pub fn of(shown: &Shown, conditions: &StaticToken) -> Use {
        let starts = conditions.rate.map(|rate| (rate, starts(rate, Starts::add)));
        let at_odds = [of_schedule(conditions), of_address(shown, conditions), of_starts(starts.as_ref())];
        Use {
            age_seconds: shown.made.map(|made| token_age::age(made).as_secs()),
            address: shown.address,
            pinned: conditions.pinned(),
            starts: starts.and_then(|(_, starts)| starts.ok()),
            anomalies: at_odds.into_iter().flatten().collect(),
        }
    }

    /// What was not expected.
    pub fn anomalies(&self) -> &[Anomaly] {
        &self.anomalies
    }
}

/// Something about a use that was not expected.
pub enum Anomaly {
    /// It is at another time.
    Schedule {
        /// When.
        time: Timestamp,
        /// When it was expected.
        schedule: String,
    },
    /// It is from another address, or from an unknown one.
    Address {
        /// Which.
        address: Option<IpAddr>,
    },
    /// There are too many.
    Rate {
        /// How many.
        starts: u64,
        /// How many were expected.
        rate: Rate,
    },
    /// They cannot be counted.
    Uncounted {
        /// Why.
        reason: String,
    },
}

impl Anomaly {
    /// Its kind, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Anomaly::Schedule { .. } => "schedule",
            Anomaly::Address { .. } => "address",
            Anomaly::Rate { .. } => "rate",
            Anomaly::Uncounted { .. } => "uncounted",
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Anomaly::Schedule { time, schedule } => {
                let time = time.to_zoned(TimeZone::UTC).strftime("%a %H:%M").to_string().to_lowercase();
                write!(f, "{time} UTC is outside of the schedule, {schedule}")
            }
            Anomaly::Address { address: Some(address) } => write!(f, "{address} is not pinned"),
            Anomaly::Address { address: None } => f.write_str("the address is unknown"),
            Anomaly::Rate { starts, rate } => {
                write!(f, "starts within {}: {starts}, expected at most {}", span(*rate), rate.starts)
            }
            Anomaly::Uncounted { reason } => write!(f, "starts cannot be counted: {reason}"),
        }
    }
}

impl Serialize for Anomaly {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Anomaly", 2)?;
        object.serialize_field("kind", self.kind())?;
        object.serialize_field("detail", &self.to_string())?;
        object.end()
    }
}

/// Whether a use at this moment would meet one condition, with the text for it.
pub type Outlook = Result<String, Anomaly>;

/// How a use at this moment would stand to the conditions of time, address and rate, of those that there are. It is not counted.
pub fn outlook(shown: &Shown, conditions: &StaticToken) -> Vec<Outlook> {
    let mut outlooks = Vec::new();
    if !conditions.addresses.is_empty() {
        let pinned = || format!("{} is pinned", shown.address.map(|address| address.to_string()).unwrap_or_default());
        outlooks.push(of_address(shown, conditions).map_or_else(|| Ok(pinned()), Err));
    }
    if !conditions.schedule.is_empty() {
        let inside = || format!("now is inside of the schedule, {}", conditions.hours());
        outlooks.push(of_schedule(conditions).map_or_else(|| Ok(inside()), Err));
    }
    if let Some(rate) = conditions.rate {
        let counted = (rate, starts(rate, Starts::count));
        let few = || {
            let starts = counted.1.as_ref().copied().unwrap_or_default();
            format!("starts within {}: {starts}, expected at most {}", span(rate), rate.starts)
        };
        outlooks.push(of_starts(Some(&counted)).map_or_else(|| Ok(few()), Err));
    }
    outlooks
}

/// The address by which this host reaches the internet, the one of IPv4 first. Nothing is sent: the kernel chooses a route to an address
/// that is for documentation (RFC 5737, RFC 3849).
pub fn outward_address() -> Option<IpAddr> {
    const HTTPS: u16 = 443;
    let routes: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    routes.into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect((to, HTTPS)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

fn of_schedule(conditions: &StaticToken) -> Option<Anomaly> {
    let time = Timestamp::now();
    (!conditions.expects(time)).then(|| Anomaly::Schedule { time, schedule: conditions.hours() })
}

fn of_address(shown: &Shown, conditions: &StaticToken) -> Option<Anomaly> {
    let is_expected = conditions.addresses.is_empty() || shown.address.is_some_and(|address| conditions.pins(address));
    (!is_expected).then_some(Anomaly::Address { address: shown.address })
}

fn of_starts(starts: Option<&(Rate, Result<u64, StartsError>)>) -> Option<Anomaly> {
    match starts? {
        (rate, Ok(starts)) => (*starts > rate.starts).then_some(Anomaly::Rate { starts: *starts, rate: *rate }),
        (_, Err(error)) => Some(Anomaly::Uncounted { reason: error.to_string() }),
    }
}

fn starts(rate: Rate, act: impl Fn(&Starts) -> Result<u64, StartsError>) -> Result<u64, StartsError> {
    let directory = run_directory::open().ok_or(StartsError::NoPlace)?;
    act(&Starts::within(rate.within, directory))
}

fn span(rate: Rate) -> String {
    SignedDuration::try_from(rate.within).map(token_age::rounded).unwrap_or_default()
}
