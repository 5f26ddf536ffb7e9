//! The bearer tokens of Connect: in 1Password's format, but compared with fixed tokens instead of verified.

use std::io;
use std::path::Path;
use std::sync::OnceLock;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::json;

use super::world::{self, id};
use crate::file;

/// A marker in the claims and the encoded form of every token, to search for leaks.
const MARKER: &str = "standin-connect-token";

const ES256_SIGNATURE_CHARS: usize = 86;

/// A token and its access.
pub(crate) struct Token {
    name: &'static str,
    /// Names of vaults (see [`world::id`]); `None` is all of them.
    vaults: Option<&'static [&'static str]>,
    /// Seconds since 1970; `None` is when this process began.
    issued: Option<i64>,
    /// Seconds since 1970.
    expires: u64,
}

const IN_2019: Option<i64> = Some(1_546_300_800);

pub(crate) const GOOD: Token = Token { name: "good", vaults: None, issued: None, expires: 4_102_444_800 };
pub(crate) const LIMITED: Token =
    Token { name: "limited", vaults: Some(&["agentvault"]), issued: IN_2019, expires: 4_102_444_800 };
pub(crate) const EXPIRED: Token = Token { name: "expired", vaults: None, issued: IN_2019, expires: 1_577_836_800 };

impl Token {
    /// The encoded token: a JWT with the claims of real ones.
    pub(crate) fn encode(&self) -> String {
        let vaults = self.vaults.unwrap_or(world::VAULTS);
        let scope: Vec<_> = vaults.iter().map(|name| json!({ "u": id(name), "a": 48 })).collect();
        let header = json!({ "alg": "ES256", "kid": id("key"), "typ": "JWT" });
        let claims = json!({
            "1password.com/auuid": id("account"),
            "1password.com/token": format!("{MARKER}-{}", self.name),
            "1password.com/fts": ["vaultaccess"],
            "1password.com/vts": scope,
            "aud": ["com.1password.connect"],
            "sub": id("server"),
            "exp": self.expires,
            "iat": self.issued.unwrap_or_else(begin),
            "iss": "com.1password.b5",
            "jti": format!("{MARKER}-{}", self.name),
        });
        let signature = format!("{MARKER}-{}-", self.name);
        format!(
            "{}.{}.{signature:A<ES256_SIGNATURE_CHARS$}",
            BASE64_URL_SAFE_NO_PAD.encode(header.to_string()),
            BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()),
        )
    }

    /// Whether the token's scope includes the vault with this id.
    pub(crate) fn sees(&self, vault: &str) -> bool {
        self.vaults.is_none_or(|vaults| vaults.iter().any(|name| id(name) == vault))
    }

    pub(crate) fn is_expired(&self) -> bool {
        jiff::Timestamp::now().as_second().cast_unsigned() >= self.expires
    }

    pub(crate) fn jti(&self) -> String {
        format!("{MARKER}-{}", self.name)
    }
}

/// When this process began, or was asked for it first.
fn begin() -> i64 {
    static BEGIN: OnceLock<i64> = OnceLock::new();
    *BEGIN.get_or_init(|| jiff::Timestamp::now().as_second())
}

/// Writes `connect-token`, `connect-token-limited` and `connect-token-expired` into `dir`, readable by the owner alone.
pub(crate) fn write_files(dir: &Path) -> io::Result<()> {
    for (name, token) in
        [("connect-token", GOOD), ("connect-token-limited", LIMITED), ("connect-token-expired", EXPIRED)]
    {
        file::write_private(&dir.join(name), &token.encode())?;
    }
    Ok(())
}
