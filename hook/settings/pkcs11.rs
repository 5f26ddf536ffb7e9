//! `[pkcs11]`: the HSM, and the process that loads its vendor's library.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

use super::AbsolutePath;

const HELPER: &str = "/usr/libexec/oci-secrets/oci-secrets-pkcs11";
/// What the loader and the C library take orders from, before any library is there to look for its own.
const LOADER_VARIABLES: [&str; 3] = ["LD_", "GLIBC_", "GCONV_"];

/// How to reach HSMs: what the process that loads the vendor's library is given.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pkcs11 {
    /// The library. Without it there is no HSM.
    pub module: Option<AbsolutePath>,
    /// The file with the user PIN: a credential. Without it, no login is made.
    pub pin_file: Option<AbsolutePath>,
    /// The program that loads the library.
    pub helper: AbsolutePath,
    /// The variables that the library looks for. That program has no others.
    #[serde(deserialize_with = "environment")]
    pub environment: BTreeMap<String, String>,
}

impl Default for Pkcs11 {
    fn default() -> Pkcs11 {
        let helper = AbsolutePath(HELPER.into());
        Pkcs11 { module: None, pin_file: None, helper, environment: BTreeMap::new() }
    }
}

/// Variables with names that no loader heeds: which code runs is said by `module` and `helper`, in plain sight.
fn environment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let variables = BTreeMap::<String, String>::deserialize(deserializer)?;
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !LOADER_VARIABLES.iter().any(|prefix| name.starts_with(prefix))
    };
    if variables.iter().all(|(name, value)| is_name(name) && !value.contains('\0')) {
        Ok(variables)
    } else {
        Err(de::Error::custom("expected variables of a library, none that begin with LD_, GLIBC_ or GCONV_"))
    }
}
