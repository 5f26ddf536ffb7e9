//! References, patterns and grants.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bolero::ValueGenerator;
use bolero::generator::bolero_generator::driver::Driver;
use oci_secrets::container::Annotations;
use oci_secrets::reference::Reference;
use oci_secrets::settings::{Caller, Pattern, Settings};

use crate::engine::check;
use crate::generate::{list, near_text, once_in, pick};

#[test]
fn a_reference_is_printed_as_it_was_parsed() {
    let seeds = ["op://v/i/f", "op://Agent Vault/db.prod/s-1/password?attribute=totp", "op://v/i/f?ssh-format=openssh"];
    let words =
        ["/", "//", "..", "%2e", "?", "#", " ", "op://", "*", "é", "\0", "\n", "?attribute=otp", "\\", "\u{202e}"];
    check!(20_000).with_generator(near_text(&seeds, &words)).for_each(|text| {
        let Ok(reference) = text.parse::<Reference>() else { return };
        assert_eq!(reference.to_string(), text.replace("=totp", "=otp"));
        let section = reference.section().map(|section| format!("{section}/")).unwrap_or_default();
        let (vault, item, field) = (reference.vault(), reference.item(), reference.field());
        assert_eq!(format!("op://{vault}/{item}/{section}{field}"), reference.as_str());
        for segment in reference.as_str().split('/').skip(2) {
            assert!(!["", ".", ".."].contains(&segment) && segment == segment.trim());
            assert!(!segment.contains(['%', '?', '#', '\\', '*', '\0', '"', '\'']) && segment.is_ascii());
        }
    });
}

/// All patterns of up to three segments over two names, with all texts of up to four.
#[test]
fn patterns_match_what_they_say_and_a_star_matches_more() {
    let texts: Vec<Vec<&str>> = words_of(&["a", "b", "..", ""], 4);
    let patterns: Vec<Vec<&str>> = words_of(&["a", "b", "*"], 3);
    let pattern = |segments: &[&str]| Pattern::try_from(segments.join("/")).unwrap();
    for segments in &patterns {
        let narrow = pattern(segments);
        for text in &texts {
            let is_open = segments.last() == Some(&"*");
            let is_long = if is_open { text.len() >= segments.len() } else { text.len() == segments.len() };
            let fits = segments
                .iter()
                .zip(text)
                .all(|(pattern, found)| pattern == found || (*pattern == "*" && !found.is_empty()));
            let expected = is_long && fits && !text.contains(&"..");
            assert_eq!(narrow.matches(&text.join("/")), expected, "{segments:?} {text:?}");
            for at in 0..segments.len() {
                let mut wider = segments.clone();
                wider[at] = "*";
                assert!(!expected || pattern(&wider).matches(&text.join("/")), "{wider:?} {text:?}");
            }
        }
    }
}

#[test]
fn another_grant_refuses_nothing_and_admits_only_what_it_names() {
    check!(8000).with_generator((GrantList, GrantList, Asked)).for_each(|(some, more, asked)| {
        let (before, after) = (settings(some), settings(&format!("{some}{more}")));
        let alone = settings(more);
        let admits = |settings: &Settings| {
            let caller = asked.caller();
            let annotations = Annotations::new(asked.annotations.clone());
            let grant = settings.grants.decide(&asked.reference, &annotations, asked.wants_owner, caller);
            grant.is_ok_and(|grant| {
                assert!(grant.names(&asked.reference));
                assert!(grant.user().is_some() == matches!(caller, Caller::User { .. }));
                assert!(grant.user().is_none_or(|user| asked.names.iter().any(|name| name == user)));
                let value = |key: &str| annotations.get(key).unwrap_or_default();
                assert!(grant.annotations().all(|(key, pattern)| pattern.matches(value(key))));
                true
            })
        };
        assert_eq!(admits(&after), admits(&before) || admits(&alone));
    });
}

/// All lists of up to so many of these.
fn words_of<'a>(segments: &[&'a str], max: usize) -> Vec<Vec<&'a str>> {
    let mut all: Vec<Vec<&str>> = segments.iter().map(|segment| vec![*segment]).collect();
    let mut last = all.clone();
    for _ in 1..max {
        last = last
            .iter()
            .flat_map(|word| segments.iter().map(|segment| [word.as_slice(), &[segment]].concat()))
            .collect();
        all.extend(last.clone());
    }
    all
}

fn settings(grants: &str) -> Settings {
    grants.parse().unwrap()
}

/// Grants in TOML.
struct GrantList;

impl ValueGenerator for GrantList {
    type Output = String;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<String> {
        let references = ["op://v/*", "op://*", "op://v/i/f", "op://v/i/*", "op://*/i/f", "op://v/*/s/f", "op://w/*"];
        let grant = |driver: &mut D| {
            let mut to = Vec::new();
            if once_in(driver, 3)? {
                to.push(format!("user = {:?}", pick(driver, &["alice", "bob"])?));
            }
            if once_in(driver, 3)? {
                to.push(format!("namespace = {:?}", pick(driver, &["agents", "*", "other"])?));
            }
            if once_in(driver, 3)? {
                to.push(format!("annotations = {{ team = {:?} }}", pick(driver, &["a", "*", "a/*"])?));
            }
            let mut text = format!(
                "[[grant]]\nreferences = {:?}\n",
                list(driver, 2, |driver| pick(driver, &references).copied())?
            );
            if !to.is_empty() {
                let _ = writeln!(text, "to = {{ {} }}", to.join(", "));
            }
            if once_in(driver, 2)? {
                text.push_str("owner = \"allow\"\n");
            }
            Some(text)
        };
        Some(list(driver, 3, grant)?.concat())
    }
}

/// What a container asks for.
#[derive(Debug)]
struct Request {
    reference: Reference,
    annotations: BTreeMap<String, String>,
    wants_owner: bool,
    names: Vec<String>,
}

impl Request {
    fn caller(&self) -> Caller<'_> {
        if self.names.is_empty() { Caller::Root } else { Caller::User { uid: 1000, names: &self.names } }
    }
}

struct Asked;

impl ValueGenerator for Asked {
    type Output = Request;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Request> {
        let references = ["op://v/i/f", "op://v/i/s/f", "op://w/i/f", "op://v/i/f?attribute=otp"];
        let keys =
            ["team", "io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace", "io.container.manager"];
        let values = ["a", "b", "a/b", "agents", "other", "cri-o", "libpod", ""];
        let pair = |driver: &mut D| Some(((*pick(driver, &keys)?).to_owned(), (*pick(driver, &values)?).to_owned()));
        Some(Request {
            reference: pick(driver, &references)?.parse().ok()?,
            annotations: list(driver, 3, pair)?.into_iter().collect(),
            wants_owner: driver.produce()?,
            names: list(driver, 2, |driver| Some((*pick(driver, &["alice", "1000", "bob"])?).to_owned()))?,
        })
    }
}

/// A grant of a small world, in parts.
#[derive(Clone, Copy)]
struct Small {
    references: &'static str,
    user: bool,
    namespace: bool,
    team: bool,
    owner: bool,
}

impl Small {
    fn all() -> Vec<Small> {
        let flags = || [false, true];
        let mut all = Vec::new();
        for references in ["op://v/*", "op://v/i/f", "op://*/i/f"] {
            for (user, namespace) in flags().into_iter().flat_map(|user| flags().map(|namespace| (user, namespace))) {
                for (team, owner) in flags().into_iter().flat_map(|team| flags().map(|owner| (team, owner))) {
                    all.push(Small { references, user, namespace, team, owner });
                }
            }
        }
        all
    }

    fn text(self) -> String {
        let to: Vec<&str> = [
            (self.user, "user = 'alice'"),
            (self.namespace, "namespace = 'agents'"),
            (self.team, "annotations = { team = 'a' }"),
        ]
        .into_iter()
        .filter_map(|(is_there, text)| is_there.then_some(text))
        .collect();
        let to = if to.is_empty() { String::new() } else { format!("to = {{ {} }}\n", to.join(", ")) };
        let owner = if self.owner { "owner = 'allow'\n" } else { "" };
        format!("[[grant]]\nreferences = ['{}']\n{to}{owner}", self.references)
    }

    /// What packaging/docs/grants.md says, without a pattern that is parsed.
    fn is_for(self, reference: &str, agents: bool, team: bool, wants_owner: bool, user: Option<&str>) -> bool {
        let names = match self.references {
            "op://v/*" => reference.starts_with("op://v/"),
            "op://*/i/f" => reference.split('/').skip(3).eq(["i", "f"]),
            exact => exact == reference,
        };
        let is_for_user = if self.user { user == Some("alice") } else { user.is_none() };
        names && is_for_user && (!self.namespace || agents) && (!self.team || team) && (!wants_owner || self.owner)
    }
}

/// Every one and every two grants of a small world, for every request of it.
#[test]
fn a_request_is_granted_if_one_grant_is_for_it_in_all_respects() {
    let small = Small::all();
    let pairs = small.iter().flat_map(|one| small.iter().map(|other| vec![*one, *other]));
    let lists = [Vec::new()].into_iter().chain(small.iter().map(|one| vec![*one])).chain(pairs);
    let users = [None, Some(["alice".to_owned()]), Some(["bob".to_owned()])];
    let references = ["op://v/i/f", "op://w/i/f", "op://v/i/s/f"];
    for list in lists {
        let settings = settings(&list.iter().map(|grant| grant.text()).collect::<String>());
        for bits in 0..8 {
            let [agents, team, wants_owner] = [1, 2, 4].map(|bit| bits & bit != 0);
            let pairs = [("io.kubernetes.cri.sandbox-namespace", "agents", agents), ("team", "a", team)];
            let pairs = pairs.into_iter().filter(|(.., is_there)| *is_there);
            let annotations =
                Annotations::new(pairs.map(|(key, value, _)| (key.to_owned(), value.to_owned())).collect());
            for (text, user) in references.iter().flat_map(|text| users.iter().map(move |user| (text, user))) {
                let caller = match user {
                    Some(names) => Caller::User { uid: 1000, names },
                    None => Caller::Root,
                };
                let decision = settings.grants.decide(&text.parse().unwrap(), &annotations, wants_owner, caller);
                let user = user.as_ref().map(|[name]| name.as_str());
                let expected = list.iter().any(|grant| grant.is_for(text, agents, team, wants_owner, user));
                let texts = || list.iter().map(|grant| grant.text()).collect::<String>();
                assert_eq!(decision.is_ok(), expected, "{text} {bits} {user:?}\n{}", texts());
            }
        }
    }
}
