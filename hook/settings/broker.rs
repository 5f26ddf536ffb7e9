//! `[broker]`: the daemon that resolves on behalf of the hook.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::AbsolutePath;
use super::duration::duration;

const MAX_AGE_MAX: Duration = Duration::from_secs(60 * 60);

/// How the hook reaches the broker, and how the broker serves.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Broker {
    /// The broker's socket. With it the hook asks the broker, and needs no credentials.
    pub socket: Option<AbsolutePath>,
    /// The namespace of Kubernetes in which the broker is a pod of each node; for hints.
    pub kubernetes_namespace: Option<String>,
    /// Where metrics are served, if they are.
    pub metrics: Option<MetricsAddress>,
    /// How many connections are open at the same time.
    pub connections: NonZeroU32,
    /// How many of them one user other than root has.
    pub connections_per_user: NonZeroU32,
    /// How old a fetched sealed value may be; the default depends on the source.
    #[serde(deserialize_with = "max_age")]
    pub max_age: Option<Duration>,
    /// How many requests the source gets within an hour; the default depends on the source.
    pub requests_per_hour: Option<NonZeroU32>,
}

impl Default for Broker {
    fn default() -> Broker {
        Broker {
            socket: None,
            kubernetes_namespace: None,
            metrics: None,
            connections: NonZeroU32::MIN.saturating_add(1023),
            connections_per_user: NonZeroU32::MIN.saturating_add(63),
            max_age: None,
            requests_per_hour: None,
        }
    }
}

impl Broker {
    /// The address of the broker, if the settings name one.
    pub fn address(&self) -> Option<BrokerAddress> {
        let kubernetes_namespace = self.kubernetes_namespace.clone();
        self.socket.as_ref().map(|socket| BrokerAddress { socket: socket.to_path_buf(), kubernetes_namespace })
    }
}

/// Where a broker listens, and what runs it.
#[derive(Clone, Debug)]
pub struct BrokerAddress {
    /// The socket.
    pub socket: PathBuf,
    /// The namespace of Kubernetes in which the broker is a pod of each node; systemd runs it if absent.
    pub kubernetes_namespace: Option<String>,
}

impl From<&Path> for BrokerAddress {
    fn from(socket: &Path) -> BrokerAddress {
        BrokerAddress { socket: socket.to_owned(), kubernetes_namespace: None }
    }
}

/// Where metrics are served. They are numbers, and name no container and no secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum MetricsAddress {
    /// A unix socket.
    Unix(PathBuf),
    /// A port: on loopback, or in a pod, where they are scraped from another host.
    Port(SocketAddr),
}

impl TryFrom<String> for MetricsAddress {
    type Error = MetricsAddressError;

    fn try_from(text: String) -> Result<MetricsAddress, MetricsAddressError> {
        if text.starts_with('/') {
            return Ok(MetricsAddress::Unix(text.into()));
        }
        text.parse().map(MetricsAddress::Port).map_err(|_| MetricsAddressError)
    }
}

fn max_age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer, Duration::ZERO..=MAX_AGE_MAX, "expected a duration from \"0s\" to \"1h\"").map(Some)
}

/// A text that is no place to serve metrics.
#[derive(Debug, thiserror::Error)]
#[error("expected the absolute path of a socket, or an address and a port, such as 127.0.0.1:9465")]
pub struct MetricsAddressError;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn parse(lines: &str) -> Result<Broker, String> {
        let settings = format!("[broker]\n{lines}").parse::<Settings>();
        settings.map(|settings| settings.broker).map_err(|error| error.to_string())
    }

    #[test]
    fn serves_metrics_at_a_socket_or_a_port() {
        let metrics = |text: &str| parse(&format!("metrics = {text:?}")).map(|broker| broker.metrics.unwrap());
        assert_eq!(metrics("/run/m.sock"), Ok(MetricsAddress::Unix("/run/m.sock".into())));
        for address in ["[::1]:1", "0.0.0.0:9465"] {
            assert_eq!(metrics(address), Ok(MetricsAddress::Port(address.parse().unwrap())));
        }
        for text in ["9465", "m.sock", "localhost:1", ""] {
            assert!(metrics(text).unwrap_err().contains("an address and a port"), "{text}");
        }
    }

    #[test]
    fn an_age_and_a_budget_have_bounds() {
        assert_eq!(parse("max-age = '0s'").unwrap().max_age, Some(Duration::ZERO));
        assert!(parse("max-age = '61m'").unwrap_err().contains("expected a duration from \"0s\" to \"1h\""));
        assert_eq!(parse("requests-per-hour = 900").unwrap().requests_per_hour, NonZeroU32::new(900));
        assert!(parse("requests-per-hour = 0").is_err());
    }

    #[test]
    fn is_off_unless_a_socket_is_named() {
        assert_eq!(parse("").unwrap(), Broker::default());
        assert!(Settings::default().broker.socket.is_none());
        assert!(parse("socket = 'broker.sock'").unwrap_err().contains("expected an absolute path"));
        assert!(parse("connections = 0").is_err() && parse("sockets = '/a'").is_err());
    }
}
