//! The recipients of a sealed file.

use super::age_error::AgeError;
use super::ask::{Ask, Asking};
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};

/// One recipient, and the text that it was parsed from.
pub struct Recipient {
    name: String,
    recipient: Box<dyn age::Recipient>,
}

impl Recipient {
    /// Parses `age1…`, also that of a plugin, or a line of an SSH public key file.
    ///
    /// # Errors
    /// If it is not a recipient, age does not support its type, or its plugin is not on the PATH.
    pub fn parse(name: &str, ask: impl Ask) -> Result<Recipient, RecipientError> {
        let text = name.trim();
        let recipient: Box<dyn age::Recipient> = if let Ok(key) = text.parse::<age::x25519::Recipient>() {
            Box::new(key)
        } else if let Ok(key) = text.parse::<age::tag::Recipient>() {
            Box::new(key)
        } else if let Ok(key) = text.parse::<age::tagpq::Recipient>() {
            Box::new(key)
        } else if let Ok(key) = text.parse::<age::ssh::Recipient>() {
            Box::new(key)
        } else if let Ok(key) = text.parse::<age::plugin::Recipient>() {
            let plugin =
                age::plugin::RecipientPluginV1::new(key.plugin(), std::slice::from_ref(&key), &[], Asking(ask));
            Box::new(plugin.map_err(|error| RecipientError::Age(error.into()))?)
        } else {
            return Err(RecipientError::Unknown { found: text.to_owned() });
        };
        Ok(Recipient { name: text.to_owned(), recipient })
    }

    /// The text that it was parsed from.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn native(recipient: age::x25519::Recipient) -> Recipient {
        Recipient { name: recipient.to_string(), recipient: Box::new(recipient) }
    }

    pub(super) fn as_age(&self) -> &dyn age::Recipient {
        &*self.recipient
    }
}

/// Why a recipient cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum RecipientError {
    /// Not a recipient that age knows.
    #[error("{} is not a recipient: expected age1…, ssh-ed25519 … or ssh-rsa …", Excerpt(found))]
    Unknown { found: String },
    /// Its plugin cannot be used.
    #[error(transparent)]
    Age(AgeError),
}

impl Fault for RecipientError {
    fn class(&self) -> Class {
        match self {
            RecipientError::Unknown { .. } => Class::CommandLine,
            RecipientError::Age(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            RecipientError::Unknown { .. } => None,
            RecipientError::Age(error) => error.hint(),
        }
    }
}
