//! Prompts for the operator.

use age::Callbacks;
use age::secrecy::SecretString;
use zeroize::Zeroizing;

/// Prompts for the operator while keys are used: for the passphrase of a key file, or to touch a token.
pub trait Ask: Clone + Send + Sync + 'static {
    /// Prompts without echo.
    fn passphrase(&self, prompt: &str) -> Option<Zeroizing<String>>;

    /// Prompts with echo.
    fn line(&self, prompt: &str) -> Option<String>;

    /// Shows a message.
    fn show(&self, message: &str);
}

/// Adapts [`Ask`] to age's callbacks.
#[derive(Clone)]
pub(super) struct Asking<A>(pub(super) A);

impl<A: Ask> Callbacks for Asking<A> {
    fn display_message(&self, message: &str) {
        self.0.show(message);
    }

    fn confirm(&self, message: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        let no = no.map(|no| format!(", or \"{no}\"")).unwrap_or_default();
        self.0.line(&format!("{message} (\"{yes}\"{no}): ")).map(|answer| answer.trim() == yes)
    }

    fn request_public_string(&self, description: &str) -> Option<String> {
        self.0.line(&format!("{description}: "))
    }

    fn request_passphrase(&self, description: &str) -> Option<SecretString> {
        self.0.passphrase(&format!("{description}: ")).map(|typed| SecretString::from(typed.to_string()))
    }
}
