//! The structure of the code: which module may use which, and what must not be in the tree.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

#[path = "layers/cycles.rs"]
mod cycles;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

/// The modules of the crate, lowest layer first. A module uses only modules of lower layers, and so none of its own layer.
const LAYERS: &[&[&str]] = &[
    &["fault"],
    &["child", "errno", "excerpt", "hex", "json", "nearest", "reference", "retry", "secret", "syslog", "whole_file"],
    &["dns", "monitoring", "report", "systemd", "template", "tls"],
    &["harden", "http_client"],
    &["container", "run_directory"],
    &["envrc", "refusals", "settings"],
    &["pkcs11", "token"],
    &["kubernetes", "source", "seal", "deliver", "engine"],
    &["resolve"],
    &["audit"],
    &["break_glass"],
    &["start", "nri"],
    &["broker"],
    &["hook", "cli", "runtime", "gateway"],
    &["bin"],
];

/// Libraries that only these modules may use; other modules go through them.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("age", &["break_glass"]),
    ("aws_config", &["seal"]),
    ("aws_credential_types", &["seal"]),
    ("aws_runtime", &["seal"]),
    ("aws_sdk_kms", &["seal"]),
    ("aws_sdk_sts", &["seal"]),
    ("aws_smithy_async", &["seal"]),
    ("aws_smithy_http_client", &["seal"]),
    ("aws_smithy_runtime_api", &["seal"]),
    ("blahaj", &["break_glass"]),
    ("bytes", &["seal"]),
    ("clap", &["cli", "bin"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("cryptoki", &["pkcs11"]),
    ("rpassword", &["cli"]),
    ("strsim", &["container", "nearest"]),
    ("google_cloud_auth", &["seal"]),
    ("google_cloud_gax", &["seal"]),
    ("google_cloud_iam_v1", &["seal"]),
    ("google_cloud_kms", &["seal"]),
    ("form_urlencoded", &["gateway"]),
    ("hickory_resolver", &["dns"]),
    ("http_body_util", &["gateway", "monitoring"]),
    ("hyper", &["gateway", "monitoring"]),
    ("hyper_util", &["gateway", "monitoring", "source"]),
    ("indicatif", &["cli"]),
    ("ipnet", &["settings"]),
    ("jsonwebtoken", &["gateway"]),
    ("linux_keyutils", &["break_glass"]),
    ("listenfd", &["systemd"]),
    ("oci_spec", &["container", "deliver"]),
    ("openssl_probe", &["tls"]),
    ("prost", &["nri"]),
    ("prometheus_client", &["broker", "gateway"]),
    ("regex", &["engine", "envrc"]),
    ("signature", &["gateway"]),
    ("similar", &["cli"]),
    ("tokio_rustls", &["gateway"]),
    ("toml", &["settings", "engine"]),
    ("toml_edit", &["engine"]),
];

/// Packages that must not come in by a dependency's default feature. aws-lc-rs seeds its entropy for 23-38 ms in every process.
const UNWANTED_PACKAGES: &[&str] = &["aws-lc-rs", "aws-lc-sys", "native-tls", "openssl-sys"];

/// The most lines of a binary: it only starts what the library does.
const BIN_LINES_MAX: usize = 25;

/// Where checkouts and builds live on one machine or another, never on the user's.
const MACHINE_ROOTS: &[&str] = &["builds", "work", "workspace", "Users"];

#[test]
fn modules_use_only_lower_layers() {
    let sources = files_below(&root().join("hook"));
    assert!(sources.iter().any(|path| path.ends_with("hook/settings/mod.rs")));
    let violations: Vec<String> = sources
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .flat_map(|path| violations(&relative(path), &fs::read_to_string(path).unwrap()))
        .collect();
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn files_do_not_import_each_other_in_cycles() {
    let sources = files_below(&root().join("hook"));
    let file = |path: &PathBuf| {
        let name = relative(path).strip_prefix("hook/").unwrap().to_owned();
        (!name.starts_with("bin/")).then(|| (name, fs::read_to_string(path).unwrap()))
    };
    let files: Vec<(String, String)> = sources.iter().filter_map(file).collect();
    assert!(files.iter().any(|(name, _)| name == "settings/mod.rs"));
    let cycles = cycles::cycles(&files);
    let text: Vec<String> = cycles.iter().map(ToString::to_string).collect();
    assert!(cycles.is_empty(), "{} cycles:\n{}", cycles.len(), text.join("\n"));
}

#[test]
fn binaries_are_thin() {
    for path in files_below(&root().join("hook/bin")) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= BIN_LINES_MAX, "{}: {lines} lines, at most {BIN_LINES_MAX}", path.display());
    }
}

#[test]
fn unwanted_packages_stay_out() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let has = |package: &str| lock.contains(&format!("\nname = \"{package}\"\n"));
    assert!(has("ring"));
    for package in UNWANTED_PACKAGES {
        assert!(!has(package), "`cargo tree --invert {package}` says who brings it in");
    }
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let entries = ["hook", "config", "tests", "packaging", "Cargo.toml", "CHANGELOG.md", "README.md"];
    let files: Vec<PathBuf> = entries.iter().flat_map(|entry| files_below(&root().join(entry))).collect();
    assert!(files.contains(&root().join("tests/layers.rs")) && files.contains(&root().join("Cargo.toml")));
    for path in files {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        assert_eq!(machine_path(&text), None, "{}", path.display());
    }
}

/// What one file of `hook/` uses and may not.
fn violations(path: &str, source: &str) -> Vec<String> {
    let (user, depth) = module(path);
    let mut uses = Uses::default();
    uses.collect(&source.parse::<TokenStream>().unwrap().into_iter().collect::<Vec<_>>(), depth);
    let placed = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let lower = |used: &str| user == "lib" || user == used || placed(used) < placed(&user);
    let mut violations = Vec::new();
    for module in uses.modules.iter().map(String::as_str).chain([user.as_str()]).filter(|module| *module != "lib") {
        match placed(module) {
            None => violations.push(format!("{path}: module {module} has no layer")),
            Some(_) if !lower(module) => {
                violations.push(format!("{path}: {user} uses {module}, which is not below it"))
            }
            Some(_) => {}
        }
    }
    for (library, _) in
        LIBRARIES.iter().filter(|(library, rooms)| uses.names.contains(*library) && !rooms.contains(&&*user))
    {
        violations.push(format!("{path}: {user} uses {library}"));
    }
    violations
}

/// The top-level module that a file of `hook/` belongs to, and how many `super::` lead from it to the crate's root.
fn module(path: &str) -> (String, usize) {
    let path = path.strip_prefix("hook/").unwrap().strip_suffix(".rs").unwrap();
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let first = path.split('/').next().unwrap().to_owned();
    let depth = if first == "lib" { 0 } else { path.split('/').count() };
    (first, depth)
}

/// The names in a source text that can lead out of its module. Comments and strings are none of them.
#[derive(Default)]
struct Uses {
    modules: BTreeSet<String>,
    names: BTreeSet<String>,
}

impl Uses {
    fn collect(&mut self, tokens: &[TokenTree], depth: usize) {
        for (at, token) in tokens.iter().enumerate() {
            let (before, after) = (&tokens[..at], &tokens[at + 1..]);
            match token {
                TokenTree::Group(group) => {
                    let inside_module = group.delimiter() == Delimiter::Brace && is_module_header(before);
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    self.collect(&inner, depth + usize::from(inside_module));
                }
                TokenTree::Ident(name) if name == "crate" || name == "oci_secrets" => self.collect_heads(after),
                TokenTree::Ident(name) if name == "super" && !ends_with_super(before) => {
                    self.collect_above(after, depth - 1);
                }
                TokenTree::Ident(name) if after_separator(after).is_some() && !is_inside_path(before) => {
                    self.names.insert(name.to_string());
                }
                _ => {}
            }
        }
    }

    /// Follows `super::super::…`, of which the first was read, to what it names if that is below the crate's root.
    fn collect_above(&mut self, after: &[TokenTree], depth: usize) {
        match after_separator(after) {
            _ if depth == 0 => self.collect_heads(after),
            Some([TokenTree::Ident(name), rest @ ..]) if name == "super" => self.collect_above(rest, depth - 1),
            _ => {}
        }
    }

    /// The first name, or names, after `crate`: `::a::b`, `::{a::b, c}`, `::*`.
    fn collect_heads(&mut self, after: &[TokenTree]) {
        if let Some([head, ..]) = after_separator(after) {
            self.collect_head(head);
        }
    }

    fn collect_head(&mut self, head: &TokenTree) {
        match head {
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',');
                inner.split(is_comma).filter_map(<[_]>::first).for_each(|head| self.collect_head(head));
            }
            head => {
                self.modules.insert(head.to_string());
            }
        }
    }
}

fn is_module_header(before: &[TokenTree]) -> bool {
    matches!(before, [.., TokenTree::Ident(keyword), TokenTree::Ident(_)] if keyword == "mod")
}

fn ends_with_super(before: &[TokenTree]) -> bool {
    matches!(before, [.., TokenTree::Ident(name), TokenTree::Punct(_), TokenTree::Punct(_)] if name == "super")
}

/// Whether what follows is not the first name of its path: such a name is a module of a library, and can be called as another library is.
fn is_inside_path(before: &[TokenTree]) -> bool {
    let is_keyword = |name: &Ident| ["as", "dyn", "for", "impl", "use"].into_iter().any(|keyword| name == keyword);
    matches!(before, [.., TokenTree::Ident(name), TokenTree::Punct(first), TokenTree::Punct(second)]
        if !is_keyword(name) && first.as_char() == ':' && second.as_char() == ':')
}

/// What follows `::`, if these tokens begin with it.
fn after_separator(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    match tokens {
        [TokenTree::Punct(first), TokenTree::Punct(second), rest @ ..] => {
            (first.as_char() == ':' && second.as_char() == ':').then_some(rest)
        }
        _ => None,
    }
}

/// The first path in a text that only one machine has.
fn machine_path(text: &str) -> Option<String> {
    let roots = MACHINE_ROOTS.iter().map(|root| format!("/{root}/"));
    let is_path = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || "._-})>".contains(c));
    roots
        .chain([env!("CARGO_MANIFEST_DIR").to_owned()])
        .find(|root| text.match_indices(root.as_str()).any(|(at, _)| is_path(at)))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

/// Every file below a path, or the path itself if it is a file; none if it is absent.
fn files_below(path: &Path) -> Vec<PathBuf> {
    match fs::read_dir(path) {
        Ok(entries) => entries.flat_map(|entry| files_below(&entry.unwrap().path())).collect(),
        Err(_) if path.is_file() => vec![path.to_owned()],
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(path: &str, source: &str) -> Vec<String> {
        let found = violations(path, source);
        found.into_iter().map(|violation| violation.split_once(": ").unwrap().1.to_owned()).collect()
    }

    #[test]
    fn catches_each_way_to_name_a_module() {
        let expected = ["source uses deliver, which is not below it"];
        for source in [
            "use crate::deliver::Frozen;",
            "use crate::{secret::Secret, deliver::{self, Frozen}};",
            "fn f() { crate::deliver::attach() }",
            "impl From<crate::deliver::Error> for E {}",
            "use super::deliver;",
            "use super::{reference, deliver::Frozen};",
            "use self::super::deliver;",
            "mod tests { use super::super::deliver; }",
            "mod tests { mod inner { use super::super::super::deliver; } }",
            "macro_rules! m { () => { $crate::deliver::x() } }",
        ] {
            assert_eq!(uses("hook/source/mod.rs", source), expected, "{source}");
        }
        assert_eq!(uses("hook/source/connect.rs", "use super::super::deliver;"), expected);
    }

    #[test]
    fn lets_pass_what_is_below_or_no_use() {
        for source in [
            "use crate::{reference::Reference, settings, source::Source};",
            "mod tests { use super::*; use super::deliver; }",
            "/// Unlike [`crate::deliver`].\nfn f() {} // crate::deliver",
            r##"const TEXT: &str = "crate::deliver"; const RAW: &str = r#"use crate::deliver;"#;"##,
            "pub(crate) fn f<'a>(x: &'a str) {} pub(super) fn g() {}",
        ] {
            assert_eq!(uses("hook/source/mod.rs", source), [""; 0], "{source}");
        }
        assert_eq!(uses("hook/source/connect.rs", "use super::deliver;"), [""; 0]);
        assert_eq!(uses("hook/source/mod.rs", "struct S { toml: String }"), [""; 0]);
        assert_eq!(uses("hook/lib.rs", "pub mod settings; use crate::hook;"), [""; 0]);
    }

    #[test]
    fn wants_a_layer_for_every_module() {
        assert_eq!(uses("hook/courier.rs", ""), ["module courier has no layer"]);
        assert_eq!(
            uses("hook/bin/oci-secrets.rs", "fn main() { oci_secrets::courier::run() }"),
            ["module courier has no layer"]
        );
        assert_eq!(uses("hook/cli/mod.rs", "use crate::*;"), ["module * has no layer"]);
        assert_eq!(uses("hook/bin/oci-secrets.rs", "fn main() { oci_secrets::cli::run() }"), [""; 0]);
    }

    #[test]
    fn refuses_neighbours_and_libraries_outside_their_layer() {
        assert_eq!(
            uses("hook/container/mod.rs", "use crate::settings;"),
            ["container uses settings, which is not below it"]
        );
        assert_eq!(uses("hook/report.rs", "use crate::settings;"), ["report uses settings, which is not below it"]);
        assert_eq!(uses("hook/source/mod.rs", "use google_cloud_kms::client;"), ["source uses google_cloud_kms"]);
        assert_eq!(uses("hook/hook.rs", "#[derive(clap::Parser)] struct A;"), ["hook uses clap"]);
        assert_eq!(uses("hook/envrc/mod.rs", "use ::bytes::Bytes;"), ["envrc uses bytes"]);
        assert_eq!(uses("hook/envrc/mod.rs", "use regex::bytes::Regex;"), [""; 0]);
    }

    #[test]
    fn knows_a_path_of_a_machine() {
        let path = ["", "work", "x"].join("/");
        assert_eq!(machine_path(&format!("see {path}")), Some(["", "work", ""].join("/")));
        assert!(machine_path(env!("CARGO_MANIFEST_DIR")).is_some());
        assert_eq!(machine_path("tests/builds/x"), None);
    }
}
