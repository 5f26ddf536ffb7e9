//! The page of a program that has no verbs, from its `--help`.

use clap_mangen::roff::{Roff, bold, roman};

use crate::fault::Class;

/// What each exit code says.
const EXIT_CODES: [(Class, &str); 8] = [
    (Class::CommandLine, "The command line."),
    (Class::Data, "The state, the spec, an annotation or a sealed value."),
    (Class::NotFound, "No such vault, item, section or field."),
    (Class::Unavailable, "The source or the KMS does not answer, or not usably."),
    (Class::Bug, "A bug."),
    (Class::Kernel, "A system call failed."),
    (Class::NotPermitted, "Not permitted, by a grant, 1Password, the KMS, or the mode of a file."),
    (Class::Settings, "The settings, or a file that they name."),
];

const USAGE: &str = "Usage: ";
const OPTION: &str = "  --";

/// The page of a program: a description, `Usage:`, options, and further paragraphs.
pub(super) fn page(name: &str, help: &str) -> String {
    let blocks: Vec<&str> = help.trim().split("\n\n").collect();
    let is_usage = |block: &&&str| block.starts_with(USAGE);
    let is_options = |block: &&&str| block.starts_with(OPTION);
    let description = blocks.first().copied().unwrap_or_default();
    let summary = description.split(':').next().unwrap_or_default();

    let mut roff = Roff::new();
    let version = concat!("oci-secrets ", env!("CARGO_PKG_VERSION"));
    roff.control("TH", [name, "8", "", version]);
    roff.control("SH", ["NAME"]).text([roman(format!("{name} - {}", one_line(summary)))]);
    roff.control("SH", ["SYNOPSIS"]);
    for usage in blocks.iter().filter(is_usage) {
        roff.text([bold(one_line(usage.trim_start_matches(USAGE)))]);
    }
    roff.control("SH", ["DESCRIPTION"]);
    for paragraph in blocks.iter().filter(|block| !is_usage(block) && !is_options(block)) {
        roff.control("PP", []).text([roman(one_line(paragraph))]);
    }
    roff.control("SH", ["OPTIONS"]);
    for (option, text) in blocks.iter().filter(is_options).flat_map(|block| options(block)) {
        roff.control("TP", []).text([bold(option)]).text([roman(text)]);
    }
    roff.control("SH", ["EXIT STATUS"]);
    roff.control("TP", []).text([bold("0")]).text([roman("Success.")]);
    for (class, text) in EXIT_CODES {
        roff.control("TP", []).text([bold((class as u8).to_string())]).text([roman(text)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("oci-secrets(1), oci-secrets-settings.toml(5), oci-secrets-gateway.toml(5)")]);
    roff.render()
}

/// The options of a block, each with its text, which may take several lines.
fn options(block: &str) -> Vec<(String, String)> {
    let mut options: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        if line.starts_with(OPTION) {
            let (option, text) = line.trim().split_once("  ").unwrap_or((line.trim(), ""));
            options.push((option.to_owned(), text.trim().to_owned()));
        } else if let Some((_, text)) = options.last_mut() {
            text.push(' ');
            text.push_str(line.trim());
        }
    }
    options
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_all_that_the_help_has() {
        let help = "A thing: does\nmuch.\n\nUsage: thing [--a X]\n\n  --a X  the first,\n         on two lines\n  --b    the second\n\nAnd more.\n";
        let page = page("thing", help);
        for text in [
            "thing \\- A thing\n",
            ".SH SYNOPSIS\n\\fBthing [\\-\\-a X]\\fR",
            "A thing: does much.",
            ".TP\n\\fB\\-\\-a X\\fR\nthe first, on two lines\n.TP\n\\fB\\-\\-b\\fR\nthe second\n",
            "And more.",
            "\\fB77\\fR\nNot permitted",
        ] {
            assert!(page.contains(text), "{text}: {page}");
        }
    }
}
