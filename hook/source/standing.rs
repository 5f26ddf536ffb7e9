//! What a failure says about the value that was asked for.
//!
//! This is the one classification of failures: break-glass, the broker's circuit breaker and its outage cache decide by it.

use super::SourceError;
use super::op::OpError;
use crate::fault::{Class, Fault as _};
use crate::tls::TlsError;

/// Whether the source has answered, as far as a failure shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The source does not answer: refused, silent, too slow, 5xx, too many requests, an expired certificate, no address for its name.
    Outage,
    /// There was an answer that is not understood, or one of another server. It says nothing about the value, but may be a refusal.
    Unclear,
    /// The source has answered, and the value is not to be had: refused, missing, ambiguous or unusable.
    Refusal,
    /// The settings, a file or the kernel of this host, or a certificate that is not trusted here, stand in the way.
    Local,
}

impl SourceError {
    /// What this failure says about the value that was asked for.
    pub fn standing(&self) -> Standing {
        match self {
            SourceError::NoAnswer { .. } | SourceError::Unreachable { .. } | SourceError::Broken { .. } => {
                Standing::Outage
            }
            // Its operators have to renew it. A certificate that is wrong in another way may be that of another server.
            SourceError::Tls { problem: TlsError::Expired { .. }, .. } => Standing::Outage,
            SourceError::Limited { .. } => Standing::Outage,
            SourceError::Status { status: 408 | 429 | 500..=599, .. } => Standing::Outage,
            SourceError::Status { status: 400..=499, .. } => Standing::Refusal,
            SourceError::Status { .. }
            | SourceError::Redirected { .. }
            | SourceError::TooLarge { .. }
            | SourceError::NotConnect { .. }
            | SourceError::NotStored { .. }
            | SourceError::NoClient { .. }
            | SourceError::OverBudget { .. }
            | SourceError::OverShare { .. } => Standing::Unclear,
            SourceError::NoVault { .. }
            | SourceError::ManyVaults { .. }
            | SourceError::NoItem { .. }
            | SourceError::ArchivedItem { .. }
            | SourceError::ManyItems { .. }
            | SourceError::NoSection { .. }
            | SourceError::NoField { .. }
            | SourceError::ManyFields { .. }
            | SourceError::NoValue { .. }
            | SourceError::NotOtp { .. }
            | SourceError::NotText { .. }
            | SourceError::NoKeyFormats
            | SourceError::Unauthorized { .. }
            | SourceError::Forbidden { .. }
            | SourceError::Changed { .. }
            | SourceError::Undecodable { .. } => Standing::Refusal,
            SourceError::Paused { cause } | SourceError::Unconfirmed { cause, .. } => cause.standing(),
            // An issuer of tokens that does not answer is not the source.
            SourceError::Token { source } if source.class() == Class::Unavailable => Standing::Unclear,
            SourceError::NoSource
            | SourceError::NotChosen
            | SourceError::NoConnect
            | SourceError::Runtime { .. }
            | SourceError::Tls { .. }
            | SourceError::File { .. }
            | SourceError::TokenFile { .. }
            | SourceError::Token { .. }
            | SourceError::CaFile { .. } => Standing::Local,
            SourceError::Op(error) => of_op(error),
        }
    }
}

fn of_op(error: &OpError) -> Standing {
    match error {
        OpError::NoAnswer { .. } | OpError::Limited { .. } | OpError::Server { .. } | OpError::Unreachable { .. } => {
            Standing::Outage
        }
        // `op` has one exit code, so that an unknown message may be a refusal.
        OpError::Failed { .. } | OpError::Shape | OpError::TooLarge { .. } | OpError::Killed { .. } => {
            Standing::Unclear
        }
        OpError::Unauthorized { .. } | OpError::NotLetIn { .. } | OpError::NotSignedIn { .. } | OpError::Many => {
            Standing::Refusal
        }
        OpError::File { .. }
        | OpError::Outdated(_)
        | OpError::UnusableToken
        | OpError::NoPerson
        | OpError::NoHome { .. }
        | OpError::OnDisk { .. }
        | OpError::NoRandom
        | OpError::Run { .. } => Standing::Local,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::samples::failures;
    use super::*;
    use crate::report;
    use crate::token::Origin;

    fn status(status: u16) -> SourceError {
        SourceError::Status { server: "s".into(), status, tries: 1, message: None }
    }

    /// Every status that a server can answer with.
    #[test]
    fn only_a_server_that_cannot_answer_is_an_outage() {
        for code in 100..=999 {
            let expected = match code {
                408 | 429 | 500..=599 => Standing::Outage,
                400..=499 => Standing::Refusal,
                _ => Standing::Unclear,
            };
            assert_eq!(status(code).standing(), expected, "{code}");
        }
    }

    #[test]
    fn a_refusal_is_never_an_outage() {
        let (server, item) = ("s".to_owned(), "i".to_owned());
        let origin = || Origin::Static("/t".into());
        let refusals = [
            SourceError::Unauthorized { server: server.clone(), message: None, origin: origin() },
            SourceError::Forbidden { what: "v".into(), origin: origin() },
            SourceError::NoVault { vault: "v".into() },
            SourceError::NoItem { item: item.clone(), vault: "v".into() },
            SourceError::ArchivedItem { item: item.clone(), vault: "v".into() },
            SourceError::ManyItems { item: item.clone(), vault: "v".into(), count: 2 },
            SourceError::NoField { field: "f".into(), item: item.clone(), nearest: None },
            SourceError::NoValue { field: "f".into(), item },
            SourceError::Op(OpError::Unauthorized { said: "(401)".into() }),
            status(404),
        ];
        for refusal in refusals {
            assert_eq!(refusal.standing(), Standing::Refusal, "{refusal}");
            let paused = SourceError::Paused { cause: Box::new(refusal) };
            assert_eq!(paused.standing(), Standing::Refusal, "{paused}");
        }
    }

    #[test]
    fn a_certificate_is_an_outage_only_if_it_has_expired() {
        let tls = |problem| SourceError::Tls { server: "s".into(), problem }.standing();
        assert_eq!(tls(TlsError::Expired { end: None }), Standing::Outage);
        let others = [
            TlsError::InFuture { begin: None },
            TlsError::UnknownIssuer,
            TlsError::Name { presented: Vec::new() },
            TlsError::Authority,
            TlsError::Purpose,
            TlsError::Revoked,
            TlsError::Certificate { cause: "c".into() },
            TlsError::NotTls,
            TlsError::Refused { alert: "a".into() },
            TlsError::Handshake { cause: "c".into() },
        ];
        for problem in others {
            assert_eq!(tls(problem), Standing::Local);
        }
    }

    #[test]
    fn silence_is_an_outage() {
        let (server, within) = ("s".to_owned(), Duration::from_secs(1));
        let silent = SourceError::NoAnswer { server: server.clone(), within, tries: 3 };
        let unreachable = SourceError::Unreachable { server: server.clone(), cause: "c".into(), within };
        let op = SourceError::Op(OpError::NoAnswer { within, app: false });
        let broken = SourceError::Broken { server, cause: "c".into(), tries: 1 };
        for outage in [silent, unreachable, op, broken] {
            assert_eq!(outage.standing(), Standing::Outage, "{outage}");
        }
        assert_eq!(SourceError::OverBudget { server: "s".into(), limit: 1 }.standing(), Standing::Unclear);
        assert_eq!(SourceError::Op(OpError::Failed { said: "?".into() }).standing(), Standing::Unclear);
    }

    #[test]
    fn the_standing_of_each_failure_agrees_with_its_exit_code() {
        for failure in failures() {
            let (standing, class) = (failure.standing(), failure.class());
            let is_answer = matches!(class, Class::NotFound | Class::Data | Class::NotPermitted);
            // What is refused, missing or unusable is no outage, whatever it is wrapped in; neither is anything wrong on this host, except
            // that a certificate has expired.
            assert!(!is_answer || matches!(standing, Standing::Refusal | Standing::Local), "{failure:?}");
            let is_expired = report::chain(&failure).contains("certificate expired");
            assert_eq!(standing == Standing::Outage && class != Class::Unavailable, is_expired, "{failure:?}");
            assert!(standing != Standing::Local || class != Class::Unavailable, "{failure:?}");
        }
    }
}
