//! The page of a settings file, from the file that documents it: its tables are sections, its keys are terms, its comments their text.

use clap_mangen::roff::{Roff, bold, roman};

/// A settings file that comments explain.
pub(super) struct File {
    pub(super) name: &'static str,
    path: &'static str,
    purpose: &'static str,
    text: &'static str,
}

pub(super) const FILES: [File; 2] = [
    File {
        name: "oci-secrets-settings.toml",
        path: "/etc/oci-secrets/settings.toml",
        purpose: "settings of oci-secrets and its hook",
        text: include_str!("../../../config/settings.reference.toml"),
    },
    File {
        name: "oci-secrets-gateway.toml",
        path: "/etc/oci-secrets/gateway.toml",
        purpose: "settings of oci-secrets-gateway",
        text: include_str!("../../../config/gateway.toml"),
    },
];

/// What is true of the file in config/, and not of the page.
const ABOUT_THE_FILE: &str = "This file is documentation: no program reads it.";

impl File {
    pub(super) fn page(&self) -> String {
        let File { name, path, purpose, text } = self;
        let mut roff = Roff::new();
        let version = concat!("oci-secrets ", env!("CARGO_PKG_VERSION"));
        roff.control("TH", [*name, "5", "", version]);
        roff.control("SH", ["NAME"]).text([roman(format!("{name} - {purpose}"))]);
        roff.control("SH", ["SYNOPSIS"]).text([bold(*path)]);
        roff.control("SH", ["DESCRIPTION"]);
        for entry in entries(text) {
            entry.write(&mut roff);
        }
        roff.control("SH", ["SEE ALSO"]);
        roff.text([roman("oci-secrets(1), oci-secrets-hook(8), oci-secrets-gateway(8)")]);
        roff.render()
    }
}

/// Lines of prose, and the keys that follow them.
#[derive(Debug, Default, PartialEq)]
struct Entry<'a> {
    prose: Vec<&'a str>,
    code: Vec<&'a str>,
}

/// The entries of a file. An empty line ends an entry, as does prose after a key.
fn entries(text: &str) -> Vec<Entry<'_>> {
    let mut entries = vec![Entry::default()];
    for line in text.lines() {
        let Some(entry) = entries.last_mut() else { break };
        match code(line) {
            Some(code) => entry.code.push(code),
            None if line.is_empty() => entries.push(Entry::default()),
            None if entry.code.is_empty() => entry.prose.push(line.trim_start_matches('#')),
            None => entries.push(Entry { prose: vec![line.trim_start_matches('#')], code: Vec::new() }),
        }
    }
    entries.retain(|entry| *entry != Entry::default());
    entries
}

/// A key or the header of a table, in use or commented out. Prose begins with `# ` and is no assignment.
fn code(line: &str) -> Option<&str> {
    let is_key = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let is_code = match line.strip_prefix('#').map(|rest| (rest, rest.strip_prefix(' '))) {
        None => !line.is_empty(),
        Some((_, Some(prose))) => prose.split_once(" = ").is_some_and(|(key, _)| is_key(key)),
        Some((rest, None)) => !rest.is_empty(),
    };
    is_code.then_some(line)
}

impl Entry<'_> {
    fn write(&self, roff: &mut Roff) {
        match self.code.split_first() {
            None => _ = roff.control("PP", []),
            Some((header, keys)) if header.trim_start_matches('#').starts_with('[') => {
                roff.control("SH", [header.trim_start_matches('#')]);
                self.prose(roff);
                for key in keys {
                    roff.control("TP", []).text([bold(*key)]);
                }
                return;
            }
            Some((first, others)) => {
                roff.control("TP", []).text([bold(*first)]);
                for other in others {
                    roff.control("TQ", []).text([bold(*other)]);
                }
            }
        }
        self.prose(roff);
    }

    /// The prose as a paragraph. A line that is indented, as in a list, begins a line of its own.
    fn prose(&self, roff: &mut Roff) {
        for line in &self.prose {
            if line.starts_with("  ") {
                roff.control("br", []);
            }
            let line = line.trim();
            let (line, note) = match (line.strip_suffix("Examples:"), line.strip_suffix("Example:")) {
                (Some(line), _) => (line, Some("The values above are examples.")),
                (None, Some(line)) => (line, Some("The value above is an example.")),
                (None, None) => (line, None),
            };
            match line.replace(ABOUT_THE_FILE, "").trim() {
                "" if note.is_none() => _ = roff.control("PP", []),
                "" => {}
                line => _ = roff.text([roman(line)]),
            }
            if let Some(note) = note {
                roff.text([roman(note)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_every_key_and_every_sentence() {
        for file in FILES {
            let page = file.page().replace("\\*(Aq", "'").replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let page = words(&page).join(" ");
            for line in file.text.lines() {
                let line = line.replace(ABOUT_THE_FILE, "").replace('\\', "\\\\");
                let line = words(line.trim_start_matches(['#', ' '])).join(" ");
                let line = line.trim_end_matches("Example:").trim_end_matches("Examples:").trim_end();
                assert!(page.contains(line), "{}: {line}\n{page}", file.name);
            }
        }
    }

    #[test]
    fn comments_belong_to_the_key_below_and_tables_are_sections() {
        let text = "# All\n# of it.\n\n# One.\n[table]\n# A key. Examples:\n#key = 1\n# key = { x = 2 }\n# Or another.\nother = 3\n";
        let expected = [
            Entry { prose: vec![" All", " of it."], code: vec![] },
            Entry { prose: vec![" One."], code: vec!["[table]"] },
            Entry { prose: vec![" A key. Examples:"], code: vec!["#key = 1", "# key = { x = 2 }"] },
            Entry { prose: vec![" Or another."], code: vec!["other = 3"] },
        ];
        assert_eq!(entries(text), expected);
    }
}
