//! One failure of each kind, for tests of what follows from a failure.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::SourceError;
use super::op::OpError;
use crate::errno::Errno;
use crate::http_client;
use crate::settings::FileError;
use crate::tls::{TlsError, authorities};
use crate::token::static_token::OutdatedError;
use crate::token::{Origin, TokenError};

/// Each kind of failure, with each kind of cause, also while the circuit breaker is open, and after a change.
pub(crate) fn failures() -> Vec<SourceError> {
    let mut failures: Vec<SourceError> = std::iter::successors(Some(SourceError::NoSource), next).collect();
    failures.extend(std::iter::successors(Some(OpError::NoPerson), next_of_op).map(SourceError::Op));
    let tls = std::iter::successors(Some(TlsError::Expired { end: None }), next_of_tls);
    failures.extend(tls.map(|problem| SourceError::Tls { server: "s".into(), problem }));
    let status = |status| SourceError::Status { server: "s".into(), status, tries: 1, message: None };
    failures.extend((100..=999).map(status));
    let silent = TokenError::NoAnswer { origin: "o".into(), within: SECOND, tries: 1 };
    failures.push(SourceError::Token { source: silent });
    let unconfirmed = |cause: &SourceError| SourceError::Unconfirmed { field: "f".into(), cause: cause.clone().into() };
    let paused = |cause: &SourceError| SourceError::Paused { cause: cause.clone().into() };
    let wrapped: Vec<SourceError> = failures.iter().flat_map(|cause| [paused(cause), unconfirmed(cause)]).collect();
    failures.extend(wrapped);
    failures
}

const SECOND: Duration = Duration::from_secs(1);

/// A failure of the next kind: a new kind does not compile until it has its place here.
fn next(failure: &SourceError) -> Option<SourceError> {
    use SourceError as E;
    let (vault, item, field, server) = (|| "v".to_owned(), || "i".to_owned(), || "f".to_owned(), || "s".to_owned());
    let origin = || Origin::Static("/t".into());
    Some(match failure {
        E::NoSource => E::NotChosen,
        E::NotChosen => E::NoConnect,
        E::NoConnect => E::NoVault { vault: vault() },
        E::NoVault { .. } => E::ManyVaults { vault: vault(), count: 2 },
        E::ManyVaults { .. } => E::NoItem { item: item(), vault: vault() },
        E::NoItem { .. } => E::ArchivedItem { item: item(), vault: vault() },
        E::ArchivedItem { .. } => E::ManyItems { item: item(), vault: vault(), count: 2 },
        E::ManyItems { .. } => E::NoSection { section: "s".into(), item: item() },
        E::NoSection { .. } => E::NoField { field: field(), item: item(), nearest: None },
        E::NoField { .. } => E::ManyFields { field: field(), item: item(), count: 2 },
        E::ManyFields { .. } => E::NoValue { field: field(), item: item() },
        E::NoValue { .. } => E::NotOtp { field: field(), item: item() },
        E::NotOtp { .. } => E::NotText { file: field(), item: item() },
        E::NotText { .. } => E::NoKeyFormats,
        E::NoKeyFormats => E::Unauthorized { server: server(), message: None, origin: origin() },
        E::Unauthorized { .. } => E::Forbidden { what: vault(), origin: origin() },
        E::Forbidden { .. } => E::NoAnswer { server: server(), within: SECOND, tries: 1 },
        E::NoAnswer { .. } => E::Changed { field: field() },
        E::Changed { .. } => E::NotStored { field: field(), within: SECOND },
        E::NotStored { .. } => E::Unconfirmed { field: field(), cause: E::NoSource.into() },
        E::Unconfirmed { .. } => E::Unreachable { server: server(), cause: "c".into(), within: SECOND },
        E::Unreachable { .. } => E::Broken { server: server(), cause: "c".into(), tries: 1 },
        E::Broken { .. } => E::Tls { server: server(), problem: TlsError::NotTls },
        E::Tls { .. } => E::Limited { server: server(), tries: 1 },
        E::Limited { .. } => E::Redirected { server: server(), status: 301 },
        E::Redirected { .. } => E::Status { server: server(), status: 500, tries: 1, message: None },
        E::Status { .. } => E::TooLarge { server: server(), limit: 1 },
        E::TooLarge { .. } => E::NotConnect { server: server(), line: 1, column: 1 },
        E::NotConnect { .. } => E::Undecodable { what: item(), line: 1, column: 1 },
        E::Undecodable { .. } => E::File { source: file_error() },
        E::File { .. } => E::TokenFile { source: file_error(), origin: origin() },
        E::TokenFile { .. } => E::Token { source: TokenError::NotALine },
        E::Token { .. } => E::CaFile { source: authorities(Path::new("/c"), b"").err()? },
        E::CaFile { .. } => E::Runtime { errno: errno() },
        E::Runtime { .. } => E::NoClient { source: no_client()? },
        E::NoClient { .. } => E::Paused { cause: E::NoSource.into() },
        E::Paused { .. } => E::OverBudget { server: server(), limit: 1 },
        E::OverBudget { .. } => E::OverShare { uid: 1, share: 1, limit: 2 },
        E::OverShare { .. } => E::Op(OpError::NoPerson),
        E::Op(_) => return None,
    })
}

fn next_of_op(failure: &OpError) -> Option<OpError> {
    use OpError as E;
    let said = || "x".to_owned();
    Some(match failure {
        E::NoPerson => E::File { source: file_error() },
        E::File { .. } => E::Outdated(OutdatedError::Unknown { origin: Origin::Github }),
        E::Outdated(_) => E::UnusableToken,
        E::UnusableToken => E::NoHome { directory: PathBuf::new(), errno: errno() },
        E::NoHome { .. } => E::OnDisk { directory: PathBuf::new() },
        E::OnDisk { .. } => E::NoRandom,
        E::NoRandom => E::Run { path: PathBuf::new(), errno: errno() },
        E::Run { .. } => E::NoAnswer { within: SECOND, app: false },
        E::NoAnswer { .. } => E::TooLarge { limit: 1 },
        E::TooLarge { .. } => E::Shape,
        E::Shape => E::Killed { signal: 9 },
        E::Killed { .. } => E::NotSignedIn { said: said() },
        E::NotSignedIn { .. } => E::NotLetIn { said: said() },
        E::NotLetIn { .. } => E::Unauthorized { said: said() },
        E::Unauthorized { .. } => E::Many,
        E::Many => E::Limited { retry: None },
        E::Limited { .. } => E::Server { said: said() },
        E::Server { .. } => E::Unreachable { said: said() },
        E::Unreachable { .. } => E::Failed { said: said() },
        E::Failed { .. } => return None,
    })
}

fn next_of_tls(problem: &TlsError) -> Option<TlsError> {
    use TlsError as E;
    Some(match problem {
        E::Expired { .. } => E::InFuture { begin: None },
        E::InFuture { .. } => E::UnknownIssuer,
        E::UnknownIssuer => E::Name { presented: Vec::new() },
        E::Name { .. } => E::Authority,
        E::Authority => E::Purpose,
        E::Purpose => E::Revoked,
        E::Revoked => E::Certificate { cause: "c".into() },
        E::Certificate { .. } => E::NotTls,
        E::NotTls => E::Refused { alert: "a".into() },
        E::Refused { .. } => E::Handshake { cause: "c".into() },
        E::Handshake { .. } => return None,
    })
}

fn errno() -> Errno {
    rustix::io::Errno::IO.into()
}

fn file_error() -> FileError {
    FileError::Open { path: PathBuf::from("/f"), errno: errno() }
}

/// Of a client that cannot be made.
fn no_client() -> Option<Arc<reqwest::Error>> {
    crate::tls::install();
    http_client::builder_for("https", None).user_agent("\n").build().err().map(Arc::new)
}
