//! Where the commands fetch sealed values from: as the settings say, else as 1Password's own variables do.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use zeroize::Zeroizing;

use super::error::CliError;
use crate::fault::AnyFault;
use crate::settings::{OpUnlock, Permission, ServerUrl, Settings, SourceName};
use crate::source::connect::Connect;
use crate::source::op::{Op, Session};
use crate::source::{self, Source, SourceError};
use crate::token::static_token::token_age;
use crate::token::{Origin, Token, Tokens};

const CONNECT_HOST: &str = "OP_CONNECT_HOST";
const CONNECT_TOKEN: &str = "OP_CONNECT_TOKEN";
const SERVICE_ACCOUNT_TOKEN: &str = "OP_SERVICE_ACCOUNT_TOKEN";

impl ValueEnum for SourceName {
    fn value_variants<'a>() -> &'a [SourceName] {
        &[SourceName::Connect, SourceName::Op]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            SourceName::Connect => "connect",
            SourceName::Op => "op",
        }))
    }
}

/// The choice on the command line, which goes before that of the settings.
#[derive(clap::Args)]
pub(super) struct Choice {
    /// Fetch from `connect` or `op`, whatever the settings choose.
    #[arg(long, value_name = "NAME", hide_possible_values = true)]
    source: Option<SourceName>,
}

impl Choice {
    /// The settings with this choice in them.
    pub(super) fn over(&self, settings: Settings) -> Settings {
        Settings { source: self.source.or(settings.source), ..settings }
    }
}

/// Opens the source that the settings choose. The environment is looked at only if they have none, and then in the order that
/// 1Password documents: Connect, then a service account.
pub(super) fn source(settings: &Settings) -> Result<Box<dyn Source>, AnyFault> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if settings.connect.is_none()
        && settings.op.is_none()
        && let Some(source) = of_environment(settings, variable)?
    {
        return Ok(source);
    }
    let is_path = |value: &OsString| Path::new(value).is_absolute();
    source::open(settings, Some(Session::of(|name| variable(name).filter(is_path)))).map_err(AnyFault::from)
}

/// Whether 1Password's variables name a source.
pub(super) fn in_environment() -> bool {
    [CONNECT_HOST, SERVICE_ACCOUNT_TOKEN]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// How long everything may take: where an app is to be unlocked, as much longer as that may take.
pub(super) fn patience(settings: &Settings) -> Duration {
    let op = settings.op.clone().unwrap_or_default();
    let asks_app = matches!(source::chosen(settings), Ok(SourceName::Op)) && matches!(op.unlock, OpUnlock::App { .. });
    settings.deliver.deadline + if asks_app { op.timeout } else { Duration::ZERO }
}

fn of_environment(
    settings: &Settings,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Box<dyn Source>>, AnyFault> {
    let bytes = |value: OsString| Zeroizing::new(value.into_vec());
    let max_age = settings.static_token.as_ref().and_then(|conditions| conditions.max_age);
    let may_be = |name| settings.source.is_none_or(|chosen| chosen == name);
    if may_be(SourceName::Connect) {
        match (variable(CONNECT_HOST), variable(CONNECT_TOKEN)) {
            (Some(host), Some(token)) => {
                let url =
                    host.to_str().ok_or(CliError::Variable { name: CONNECT_HOST, reason: "it is not text".into() })?;
                let url = ServerUrl::parse(url, Permission::Refuse)
                    .map_err(|reason| CliError::Variable { name: CONNECT_HOST, reason: reason.to_string() })?;
                if url.has_version() {
                    let reason = "expected an address without /v1, which is added to it".into();
                    return Err(CliError::Variable { name: CONNECT_HOST, reason }.into());
                }
                let token = Token::new(&bytes(token))?;
                let origin = Origin::Environment(CONNECT_TOKEN);
                token_age::check(token.issued(), max_age, &origin)?;
                let tokens = Tokens::of(token, origin);
                let connect = Connect::new(&url, tokens, None)?;
                return Ok(Some(Box::new(connect)));
            }
            (None, None) => {}
            (Some(_), None) => {
                return Err(CliError::Variable { name: CONNECT_TOKEN, reason: "only the host is set".into() }.into());
            }
            (None, Some(_)) => {
                return Err(CliError::Variable { name: CONNECT_HOST, reason: "only the token is set".into() }.into());
            }
        }
    }
    match variable(SERVICE_ACCOUNT_TOKEN) {
        Some(token) if may_be(SourceName::Op) => {
            let (op, origin) = (settings.op.clone().unwrap_or_default(), Origin::Environment(SERVICE_ACCOUNT_TOKEN));
            let failed = |error| AnyFault::from(SourceError::Op(error));
            token_age::check(None, max_age, &origin).map_err(|error| failed(error.into()))?;
            Ok(Some(Box::new(Op::with_token(&op, &bytes(token), origin).map_err(failed)?)))
        }
        _ => Ok(None),
    }
}
