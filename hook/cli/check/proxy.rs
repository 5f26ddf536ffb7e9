//! Proxies, which the hook does not use.

use std::env;

use crate::cli::finding::Finding;

/// The variables that name a proxy for https. Connections to Google, in this process, use them.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Whether the caller's environment names a proxy. The hook drops its environment, and so does the gateway.
pub(super) fn finding() -> Option<Finding> {
    let name = VARIABLES.into_iter().find(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))?;
    let detail = format!("{name} is set: the hook ignores it, and reaches every server directly");
    let advice = "let this host reach its servers without a proxy; `endpoint` under [gcp-kms] and [aws-kms] can name a private address";
    Some(Finding::warning("proxy", detail, advice.into()))
}
