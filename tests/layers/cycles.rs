//! Finds import cycles between the files of a crate.
//!
//! A file uses another file if its code names an item that the other file defines. Names are resolved: an item that a parent module
//! re-exports counts as a use of the file that defines it, not of the parent. So a re-export alone makes no edge, and `mod` neither;
//! a parent that re-exports an item and also names it in its own code uses the child. A child that names an item of its parent's file
//! uses the parent; if the parent also uses the child, that is a cycle. Unit tests do not count: they may build what they test with
//! the whole crate. Calls of methods and of trait functions are not seen, as they need types.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// How many re-exports of re-exports a name may pass. More is an error in the source or in this check.
const REEXPORTS_MAX: usize = 16;

/// The path of a module or an item, from the root of the crate.
type Path = Vec<String>;

/// Files that use each other, in a circle of any length.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cycle {
    /// Each use within the cycle: by a file, of a file, and the names.
    pub(crate) uses: Vec<(String, String, BTreeSet<String>)>,
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (user, used, names) in &self.uses {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            writeln!(f, "{user} uses {used}: {}", names.join(", "))?;
        }
        Ok(())
    }
}

/// The cycles between these files: pairs of a path below the crate's source folder (`a/mod.rs`) and a text.
pub(crate) fn cycles(files: &[(String, String)]) -> Vec<Cycle> {
    let tree = Tree::parse(files);
    let uses = tree.uses();
    let reached: BTreeMap<&str, BTreeSet<&str>> = uses.keys().map(|file| (file.as_str(), reach(&uses, file))).collect();
    let reaches = |from: &str, to: &str| reached.get(from).is_some_and(|reached| reached.contains(to));
    let mut cycles = BTreeSet::new();
    for file in uses.keys().filter(|file| reaches(file, file)) {
        let is_in = |other: &str| reaches(file, other) && reaches(other, file);
        let inside = uses.iter().filter(|(user, _)| is_in(user)).flat_map(|(user, used)| {
            used.iter().filter(|(used, _)| is_in(used)).map(|(used, names)| (user.clone(), used.clone(), names.clone()))
        });
        cycles.insert(Cycle { uses: inside.collect() });
    }
    cycles.into_iter().collect()
}

/// By file, the files that it uses and the names by which it does.
type Uses = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// All files that a file uses, directly or through others.
fn reach<'u>(uses: &'u Uses, file: &str) -> BTreeSet<&'u str> {
    let mut reached = BTreeSet::new();
    let mut next = vec![file];
    while let Some(file) = next.pop() {
        for used in uses.get(file).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(used.as_str()) {
                next.push(used);
            }
        }
    }
    reached
}

/// The files of a crate by the paths of their modules.
struct Tree {
    files: BTreeMap<Path, File>,
}

impl Tree {
    fn parse(files: &[(String, String)]) -> Tree {
        let parse = |(name, text): &(String, String)| {
            let module = module(name);
            let mut file = File { name: name.clone(), ..File::default() };
            file.read(&text.parse::<TokenStream>().unwrap().into_iter().collect::<Vec<_>>(), &module);
            (module, file)
        };
        Tree { files: files.iter().map(parse).collect() }
    }

    fn uses(&self) -> Uses {
        let mut uses = Uses::new();
        for file in self.files.values() {
            let used = uses.entry(file.name.clone()).or_default();
            let imported = file.imports.iter().filter(|import| !import.is_public || file.names.contains(&import.name));
            for path in imported.map(|import| &import.path).chain(&file.paths) {
                if let Some(found) = self.resolve(path, 0).filter(|found| found.name != file.name) {
                    used.entry(found.name.clone()).or_default().insert(path.last().unwrap().clone());
                }
            }
        }
        uses
    }

    /// The file that defines what a path names; none if it is a module or of another crate.
    fn resolve(&self, path: &[String], reexports: usize) -> Option<&File> {
        assert!(reexports <= REEXPORTS_MAX, "cannot follow the re-exports of {path:?}");
        // The longest beginning that is a module with a file of its own.
        let depth = (0..=path.len()).rev().find(|depth| self.files.contains_key(&path[..*depth]))?;
        let (file, rest) = (&self.files[&path[..depth]], &path[depth..]);
        let (name, rest) = rest.split_first()?;
        match file.imports.iter().find(|import| import.name == *name) {
            // A path that leads through itself names an item next to the import.
            Some(import) if import.path != path => self.resolve(&[&import.path[..], rest].concat(), reexports + 1),
            _ => Some(file),
        }
    }
}

/// The path of the module that a file is: `a/b.rs` and `a/b/mod.rs` are `a::b`, `lib.rs` is the root.
fn module(name: &str) -> Path {
    let name = name.strip_suffix(".rs").unwrap();
    match name.strip_suffix("/mod").unwrap_or(name) {
        "lib" => Path::new(),
        name => name.split('/').map(str::to_owned).collect(),
    }
}

/// What the code of one file names.
#[derive(Default)]
struct File {
    name: String,
    imports: Vec<Import>,
    /// Paths in code, with the names that they begin with replaced by what was imported.
    paths: BTreeSet<Path>,
    /// Every name in code outside of imports.
    names: BTreeSet<String>,
}

/// One name that a `use` makes known.
struct Import {
    name: String,
    path: Path,
    /// It has a visibility, so that other modules can find the name here.
    is_public: bool,
}

impl File {
    /// Reads the code of a module: first its imports, as code may precede them, then the rest.
    fn read(&mut self, tokens: &[TokenTree], module: &[String]) {
        self.read_imports(tokens, module);
        self.read_paths(tokens, module);
    }

    fn read_imports(&mut self, tokens: &[TokenTree], module: &[String]) {
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) if !is_test_module(&tokens[..at]) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    self.read_imports(&inner, &inside(group.delimiter(), &tokens[..at], module));
                }
                TokenTree::Ident(name) if name == "use" => {
                    let end = statement_end(&tokens[at..]);
                    for (name, path) in tree(&tokens[at + 1..at + end]) {
                        // A relative path begins with a child module or a crate; a crate has no file here.
                        let path = absolute(&path, module).unwrap_or_else(|| [module, &path].concat());
                        let is_public = has_visibility(&tokens[..at]) && name != "*";
                        self.imports.push(Import { name, path, is_public });
                    }
                }
                _ => {}
            }
        }
    }

    fn read_paths(&mut self, tokens: &[TokenTree], module: &[String]) {
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) if !is_test_module(&tokens[..at]) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    self.read_paths(&inner, &inside(group.delimiter(), &tokens[..at], module));
                    at += 1;
                }
                TokenTree::Ident(name) if name == "use" => at += statement_end(&tokens[at..]),
                TokenTree::Ident(_) => {
                    let (path, length) = path(&tokens[at..]);
                    if !is_member(&tokens[..at]) {
                        self.names.insert(path[0].clone());
                    }
                    if path.len() > 1 {
                        let imported = self.imports.iter().find(|import| import.name == path[0]);
                        let path = match (absolute(&path, module), imported) {
                            (Some(path), _) => path,
                            (None, Some(import)) => [&import.path[..], &path[1..]].concat(),
                            (None, None) => [module, &path].concat(),
                        };
                        self.paths.insert(path);
                    }
                    at += length;
                }
                _ => at += 1,
            }
        }
    }
}

/// The module that the tokens of a group belong to: of `mod name { … }` that one.
fn inside(delimiter: Delimiter, before: &[TokenTree], module: &[String]) -> Path {
    match before {
        [.., TokenTree::Ident(keyword), TokenTree::Ident(name)]
            if keyword == "mod" && delimiter == Delimiter::Brace =>
        {
            [module, &[name.to_string()]].concat()
        }
        _ => module.to_owned(),
    }
}

/// Whether the next group is the body of `#[cfg(test)] mod name { … }`.
fn is_test_module(before: &[TokenTree]) -> bool {
    match before {
        [.., TokenTree::Group(attribute), TokenTree::Ident(keyword), TokenTree::Ident(_)] if keyword == "mod" => {
            attribute.stream().to_string().replace(' ', "") == "cfg(test)"
        }
        _ => false,
    }
}

/// A path that begins with `crate`, `self` or `super`, from the root of the crate.
fn absolute(path: &[String], module: &[String]) -> Option<Path> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" | "oci_secrets" => Some(rest.to_owned()),
        "self" => absolute(rest, module).or_else(|| Some([module, rest].concat())),
        "super" => {
            let above = module.split_last().map(|(_, above)| above)?;
            match rest.first().map(String::as_str) {
                Some("super") => absolute(rest, above),
                _ => Some([above, rest].concat()),
            }
        }
        _ => None,
    }
}

/// The path that tokens begin with, and how many tokens it has.
fn path(tokens: &[TokenTree]) -> (Path, usize) {
    let mut path = Path::new();
    let mut at = 0;
    while let Some(TokenTree::Ident(name)) = tokens.get(at) {
        path.push(name.to_string());
        at += 1;
        match separator(&tokens[at..]) {
            true if matches!(tokens.get(at + 2), Some(TokenTree::Ident(_))) => at += 2,
            _ => break,
        }
    }
    (path, at)
}

/// The names that the tree of a `use` makes known, and their paths.
fn tree(tokens: &[TokenTree]) -> Vec<(String, Path)> {
    let (prefix, length) = path(tokens);
    let rest = &tokens[length..];
    match rest {
        rest if separator(rest) => match rest.get(2) {
            Some(TokenTree::Group(group)) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',');
                let branches = inner.split(is_comma).filter(|branch| !branch.is_empty()).flat_map(tree);
                let join = |(name, path): (String, Path)| match path.split_first() {
                    // `a::{self}` names `a`.
                    Some((first, [])) if first == "self" => {
                        let name = if name == "self" { prefix.last().cloned().unwrap_or_default() } else { name };
                        (name, prefix.clone())
                    }
                    _ => (name, [&prefix[..], &path].concat()),
                };
                branches.map(join).collect()
            }
            // `a::*` makes every name known, so it uses the file of `a`.
            _ => vec![("*".to_owned(), [&prefix[..], &["*".to_owned()]].concat())],
        },
        _ => {
            // `a::b as c`: the keyword was read as a name of its own.
            let alias = rest.iter().rev().find_map(|token| match token {
                TokenTree::Ident(name) if name != "as" => Some(name.to_string()),
                _ => None,
            });
            vec![(alias.or_else(|| prefix.last().cloned()).unwrap_or_default(), prefix)]
        }
    }
}

/// Whether the next name is a field or a method: it follows a single dot.
fn is_member(before: &[TokenTree]) -> bool {
    let is_dot = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == '.');
    let dots = before.iter().rev().take_while(|token| is_dot(token)).count();
    dots == 1
}

/// Whether tokens begin with `::`.
fn separator(tokens: &[TokenTree]) -> bool {
    let is_colon = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':');
    matches!(tokens, [first, second, ..] if is_colon(first) && is_colon(second))
}

/// How many tokens there are before the next semicolon.
fn statement_end(tokens: &[TokenTree]) -> usize {
    let is_end = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ';');
    tokens.iter().position(is_end).unwrap_or(tokens.len())
}

/// Whether tokens end with `pub` or `pub(…)`.
fn has_visibility(before: &[TokenTree]) -> bool {
    match before {
        [.., TokenTree::Ident(name)] => name == "pub",
        [.., TokenTree::Ident(name), TokenTree::Group(_)] => name == "pub",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files of each cycle in a crate of these files.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let names = |cycle: &Cycle| cycle.uses.iter().map(|(user, ..)| user.clone()).collect::<BTreeSet<_>>();
        cycles(&files).iter().map(|cycle| Vec::from_iter(names(cycle)).join(" ")).collect()
    }

    #[test]
    fn finds_siblings_that_import_each_other() {
        for uses_b in
            ["use super::b::B;", "use crate::a::b::B;", "fn f() -> super::b::B {}", "use super::{b::{self, B as C}};"]
        {
            let files = [("a/mod.rs", "mod x; mod b;"), ("a/x.rs", uses_b), ("a/b.rs", "use super::x::X; struct B;")];
            assert_eq!(found(&files), ["a/b.rs a/x.rs"], "{uses_b}");
        }
    }

    #[test]
    fn finds_a_circle_through_folders() {
        let files = [
            ("a.rs", "use crate::b::x::X;"),
            ("b/x.rs", "use crate::c::C;"),
            ("b/mod.rs", ""),
            ("c.rs", "use crate::a::A;"),
        ];
        assert_eq!(found(&files), ["a.rs b/x.rs c.rs"]);
    }

    #[test]
    fn finds_a_parent_and_a_child_that_use_each_other() {
        let child = ("a/b.rs", "use super::A; pub struct B;");
        for parent in [
            "mod b; use b::B; pub struct A;",
            "mod b; pub struct A; fn f() { b::B; }",
            "mod b; pub use b::B; pub struct A(B);",
        ] {
            assert_eq!(found(&[("a/mod.rs", parent), child]), ["a/b.rs a/mod.rs"], "{parent}");
        }
    }

    #[test]
    fn follows_a_module_that_was_imported() {
        let files = [
            ("a/x.rs", "use super::b; fn f() { b::run() }"),
            ("a/b.rs", "use crate::a::x; const C: u8 = x::C;"),
            ("a/mod.rs", ""),
        ];
        assert_eq!(found(&files), ["a/b.rs a/x.rs"]);
    }

    #[test]
    fn a_reexport_leads_to_the_file_that_defines_the_item() {
        let child = ("a/b.rs", "use super::E; pub struct B;");
        assert_eq!(
            found(&[("a/mod.rs", "mod b; mod e; pub use b::B; pub use e::E;"), child, ("a/e.rs", "pub struct E;")]),
            [""; 0]
        );
        assert_eq!(
            found(&[("a/mod.rs", "mod b; mod e; pub use e::E;"), child, ("a/e.rs", "use super::b::B;")]),
            ["a/b.rs a/e.rs"]
        );
    }

    #[test]
    fn ignores_declarations_unit_tests_comments_and_members() {
        let child = ("a/b.rs", "use super::A; pub fn parse() {}");
        for parent in [
            "mod b; pub struct A;",
            "mod b; pub struct A; #[cfg(test)] mod tests { use super::b::parse; }",
            "mod b; pub use b::parse; pub struct A; fn f(x: &str) { x.parse() } // parse",
            "mod b; /// [`b::parse`]\npub struct A;",
        ] {
            assert_eq!(found(&[("a/mod.rs", parent), child]), [""; 0], "{parent}");
        }
    }
}
