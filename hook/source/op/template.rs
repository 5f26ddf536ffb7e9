//! One template for all references, and the values in what `op inject` makes of it.
//!
//! ```text
//! <boundary>
//! {{ op://vault/item/field }}
//! <boundary>
//! {{ op://vault/item/other }}
//! <boundary>
//! ```
//!
//! A value may hold anything, but not the boundary, which is random and of this run alone. A reference holds nothing that a template
//! could take for something else, as its grammar has neither braces nor `$`.

use std::fmt::Write as _;

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::hex::hex;
use crate::reference::Reference;

const BOUNDARY_BYTES: usize = 16;

/// What `op inject` reads.
pub struct InjectTemplate {
    boundary: String,
    text: String,
    /// What stands in it for each reference.
    placeholders: Vec<String>,
}

impl InjectTemplate {
    /// A template with a boundary of its own; `None` if the system has no random bytes.
    pub fn of<'a>(references: impl Iterator<Item = &'a Reference>) -> Option<InjectTemplate> {
        let mut random = [0; BOUNDARY_BYTES];
        SystemRandom::new().fill(&mut random).ok()?;
        let boundary = hex(&random);
        let placeholders: Vec<String> = references.map(|reference| format!("{{{{ {reference} }}}}")).collect();
        let mut text = format!("{boundary}\n");
        for placeholder in &placeholders {
            let _ = write!(text, "{placeholder}\n{boundary}\n");
        }
        Some(InjectTemplate { boundary, text, placeholders })
    }

    /// What `op inject` reads.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The values, in the order of the references; `None` if this is not the template with a value in each place.
    pub fn values(&self, output: &[u8]) -> Option<Vec<Zeroizing<Vec<u8>>>> {
        let begin = format!("{}\n", self.boundary);
        let end = format!("\n{}\n", self.boundary);
        let mut rest = output.strip_prefix(begin.as_bytes())?;
        let mut values = Vec::with_capacity(self.placeholders.len());
        for placeholder in &self.placeholders {
            let at = rest.windows(end.len()).position(|window| window == end.as_bytes())?;
            let (value, after) = rest.split_at_checked(at)?;
            if value == placeholder.as_bytes() {
                return None;
            }
            values.push(Zeroizing::new(value.to_vec()));
            rest = after.get(end.len()..)?;
        }
        // `op` ends what it prints with a line break of its own.
        rest.trim_ascii().is_empty().then_some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references() -> [Reference; 2] {
        ["op://v/i/f", "op://My Vault/i/section/one-time password?attribute=otp"].map(|text| text.parse().unwrap())
    }

    fn template() -> InjectTemplate {
        InjectTemplate::of(references().iter()).unwrap()
    }

    /// What `op` makes of a template when these are the values.
    fn injected(template: &InjectTemplate, values: [&str; 2]) -> String {
        let fill = |text: String, (placeholder, value): (&String, &str)| text.replace(placeholder.as_str(), value);
        template.placeholders.iter().zip(values).fold(template.text.clone(), fill) + "\n"
    }

    #[test]
    fn encloses_each_reference() {
        let template = template();
        assert!(template.text().contains("\n{{ op://v/i/f }}\n"));
        assert!(template.text().contains("\n{{ op://My Vault/i/section/one-time password?attribute=otp }}\n"));
    }

    #[test]
    fn a_value_may_hold_anything() {
        let other = template();
        for values in [["a", "b"], ["", ""], ["\n", "\n\n"], [" a\r\n", "{{ op://x/y/z }}"], [&other.boundary, "$HOME"]]
        {
            let template = template();
            let found = template.values(injected(&template, values).as_bytes()).unwrap();
            assert_eq!(found.iter().map(|value| value.as_slice()).collect::<Vec<_>>(), values.map(str::as_bytes));
        }
    }

    #[test]
    fn believes_no_other_shape() {
        let template = template();
        let whole = injected(&template, ["a", "b"]);
        for wrong in ["", "\n", &whole[1..], &whole[..whole.len() - 3], &format!("{whole}more"), &template.text] {
            assert!(template.values(wrong.as_bytes()).is_none(), "{wrong}");
        }
        let of_another_run = injected(&self::template(), ["a", "b"]);
        assert!(template.values(of_another_run.as_bytes()).is_none());
    }

    #[test]
    fn no_two_runs_share_a_boundary() {
        assert_ne!(template().boundary, template().boundary);
    }
}
