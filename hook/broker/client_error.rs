//! Why the broker does not help a hook or a command.

use std::fmt;
use std::time::Duration;

use super::protocol;
use super::wire::WireError;
use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::retry::Seconds;
use crate::settings::BrokerAddress;

/// What the broker had not done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It had not answered.
    Answer,
    /// It had not confirmed the record.
    Receipt,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Moment::Answer => "answered",
            Moment::Receipt => "confirmed the record of the start",
        })
    }
}

/// Why the broker does not help.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum BrokerError {
    /// There is no socket, or nothing listens on it.
    #[error("cannot reach the broker at {}", broker.socket.display())]
    Unreachable {
        broker: BrokerAddress,
        #[source]
        errno: Errno,
    },
    /// It does not answer in time.
    #[error("the broker at {} did not answer within {}", broker.socket.display(), Seconds(*within))]
    Silent { broker: BrokerAddress, within: Duration },
    /// The connection broke.
    #[error("the broker at {} closed the connection before it had {moment}", broker.socket.display())]
    Ended { broker: BrokerAddress, moment: Moment },
    /// It is of another release.
    #[error("the broker at {} has version {found} of the protocol, expected {}", broker.socket.display(), protocol::VERSION)]
    Version { broker: BrokerAddress, found: u8 },
    /// What answers is something else.
    #[error("cannot read the answer of the broker at {}", broker.socket.display())]
    Answer { broker: BrokerAddress, source: WireError },
    /// A request that no broker takes.
    #[error("cannot send the request to the broker at {}", broker.socket.display())]
    Request { broker: BrokerAddress, source: WireError },
    /// Another user's program listens.
    #[error("refusing to ask the broker at {}: it runs as uid {uid}, expected root", broker.socket.display())]
    NotRoot { broker: BrokerAddress, uid: u32 },
}

impl Fault for BrokerError {
    fn class(&self) -> Class {
        match self {
            BrokerError::NotRoot { .. } => Class::NotPermitted,
            BrokerError::Request { .. } => Class::Data,
            _ => Class::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            BrokerError::Unreachable { broker, .. } => match pods(broker) {
                Some(pods) => return Some(format!("{pods} shows whether its pod on this node is ready")),
                None => {
                    "start it: `systemctl enable --now oci-secrets-broker.socket`; `socket` under [broker] in the settings names its socket"
                }
            },
            BrokerError::Silent { broker, .. } | BrokerError::Ended { broker, .. } => match pods(broker) {
                Some(pods) => {
                    return Some(format!("the log of its pod on this node, which {pods} shows, has the reason"));
                }
                None => "`journalctl -u oci-secrets-broker` shows why",
            },
            BrokerError::Version { broker, .. } => match pods(broker) {
                Some(pods) => {
                    return Some(format!(
                        "hook and broker must be of the same release: {pods} shows whether the update of this node is done"
                    ));
                }
                None => {
                    "hook and broker must be of the same release: `systemctl restart oci-secrets-broker` after an update"
                }
            },
            BrokerError::Answer { .. } | BrokerError::NotRoot { .. } => {
                "`socket` under [broker] in the settings may name something else's socket"
            }
            BrokerError::Request { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// The command that lists the pods of a broker, if Kubernetes runs it.
fn pods(broker: &BrokerAddress) -> Option<String> {
    let namespace = broker.kubernetes_namespace.as_ref()?;
    Some(format!("`kubectl --namespace {namespace} get pods --output wide`"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_hint_is_for_what_runs_the_broker() {
        let of_systemd = BrokerAddress::from(Path::new("/b"));
        let in_pod = BrokerAddress { kubernetes_namespace: Some("secrets".into()), ..of_systemd.clone() };
        let hints = |broker: &BrokerAddress| {
            let failures = [
                BrokerError::Unreachable { broker: broker.clone(), errno: rustix::io::Errno::NOENT.into() },
                BrokerError::Silent { broker: broker.clone(), within: Duration::from_secs(1) },
                BrokerError::Ended { broker: broker.clone(), moment: Moment::Answer },
                BrokerError::Version { broker: broker.clone(), found: 2 },
            ];
            failures.map(|failure| failure.hint().unwrap())
        };
        for hint in hints(&of_systemd) {
            assert!(hint.contains("systemctl") || hint.contains("journalctl"), "{hint}");
            assert!(!hint.contains("kubectl"), "{hint}");
        }
        for hint in hints(&in_pod) {
            assert!(hint.contains("`kubectl --namespace secrets get pods --output wide`"), "{hint}");
            assert!(!hint.contains("systemctl") && !hint.contains("journalctl"), "{hint}");
        }
    }
}
