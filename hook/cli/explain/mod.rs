//! `oci-secrets explain`: what a container would be given, and why or why not.
//!
//! It goes the way of a start, past every problem to the next, and shows all. What is fetched stays closed unless `--open` asks for
//! more: then it is opened and dropped. Never is a value shown.

mod subject;

use std::path::Path;
use std::process::ExitCode;

use futures_util::StreamExt;
use serde::Serialize;

use super::finding::Finding;
use super::source::Choice;
use super::table::Table;
use super::{block_on, load, source, write_json, write_table};
use crate::cli::error::CliError;
use crate::container::{Annotations, FileName};
use crate::fault::AnyFault;
use crate::reference::Reference;
use crate::resolve::is_missing;
use crate::retry::Deadline;
use crate::seal::kek::{KekError, Keks};
use crate::seal::{SealError, SealedValue, is_sealed};
use crate::settings::{Caller, Grant, Permission, Settings};
use crate::source::{Fetched, Field, Source, SourceError};
use subject::{Subject, Target, Wanted, Whose};

/// Explain what a container would be given, and why or why not.
///
/// Which grant lets each reference pass, which item it leads to, under which key the value is sealed, and what the file will be. It
/// shows every problem, not the first alone, and ends with the exit code of the first. Values are not opened, and never shown.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// A bundle's directory, an .envrc, a reference, or with --engine a container.
    #[arg(value_name = "TARGET")]
    target: Target,
    /// Whose container it is.
    #[arg(long, value_enum)]
    engine: Option<Whose>,
    /// Also unseal the values; they are not shown.
    #[arg(long)]
    open: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    choice: Choice,
}

const EXAMPLE: &str = "\
Example: why did this container not start

  oci-secrets explain --engine podman agent";

/// All that is known.
#[derive(Serialize)]
struct Explanation {
    target: String,
    findings: Vec<Finding>,
    requests: Vec<Explained>,
}

/// What is known of one request.
#[derive(Serialize)]
struct Explained {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    reference: String,
    vault: String,
    item: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    section: Option<String>,
    field: String,
    optional: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// The position of the grant that gives it, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item_version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kek: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kek_version: Option<String>,
    /// Whether it is missing, and may be.
    is_left_out: bool,
    findings: Vec<Finding>,
}

pub(super) fn run(arguments: &Arguments, settings_path: &Path) -> Result<ExitCode, AnyFault> {
    let subject = Subject::find(&arguments.target, arguments.engine)?;
    let settings = load(settings_path).map(|settings| arguments.choice.over(settings));
    let explanation = explain(subject, settings, arguments.open);
    if arguments.json {
        write_json(&explanation)?
    } else {
        write_table(&explanation.table())?
    };
    let mut problems = explanation.findings().filter_map(Finding::class);
    match problems.next() {
        None => Ok(ExitCode::SUCCESS),
        Some(class) => Err(CliError::Explain { problems: 1 + problems.count(), class }.into()),
    }
}

fn explain(subject: Subject, settings: Result<Settings, AnyFault>, open: bool) -> Explanation {
    let mut requests: Vec<Explained> = subject.requests.iter().map(|one| Explained::of(one, &subject)).collect();
    let Subject { name, annotations, requests: wanted, wants_owner, mut findings, .. } = subject;
    if wanted.is_empty() && findings.is_empty() {
        findings.push(Finding::ok("hook", "nothing is asked for, and the container starts without us".into()));
    }
    match settings {
        Err(error) => findings.push(Finding::problem("settings", &*error)),
        Ok(settings) => {
            for (explained, one) in requests.iter_mut().zip(&wanted) {
                explained.grant(&one.reference, annotations.as_ref(), wants_owner, &settings);
            }
            if let Err(error) = fetch(&mut requests, &wanted, &settings, open) {
                findings.push(Finding::problem("source", &*error));
            }
        }
    }
    if findings.iter().all(|finding| finding.class().is_none()) {
        requests.iter_mut().for_each(Explained::file);
    }
    Explanation { target: name, findings, requests }
}

/// Asks the source for every reference, and looks at what it has.
fn fetch(requests: &mut [Explained], wanted: &[Wanted], settings: &Settings, open: bool) -> Result<(), AnyFault> {
    let references: Vec<&Reference> = wanted.iter().map(|one| &one.reference).collect();
    if references.is_empty() {
        return Ok(());
    }
    let source: Box<dyn Source> = source(settings)?;
    block_on(settings, async |deadline| {
        let keks = Keks::new(settings);
        let mut fetched = source.fetch(&references, deadline);
        while let Some(Fetched { index, outcome }) = fetched.next().await {
            let (Some(explained), Some(one)) = (requests.get_mut(index), wanted.get(index)) else { continue };
            match outcome {
                Ok(field) => explained.value(field, one, settings, open.then_some((&keks, deadline))).await,
                Err(error) => explained.no_value(error, one),
            }
        }
        Ok(())
    })
}

impl Explained {
    fn of(Wanted { file, reference, optional }: &Wanted, subject: &Subject) -> Explained {
        let path = |file: &FileName| format!("/run/secrets/{file}");
        Explained {
            path: file.as_ref().map(path),
            reference: reference.to_string(),
            vault: reference.vault().to_owned(),
            item: reference.item().to_owned(),
            section: reference.section().map(str::to_owned),
            field: reference.field().to_owned(),
            optional: *optional,
            owner: subject.owner.map(|owner| format!("{}:{}", owner.uid, owner.gid)),
            grant: None,
            item_id: None,
            item_version: None,
            kek: None,
            kek_version: None,
            is_left_out: false,
            findings: Vec::new(),
        }
    }

    /// Which grant gives it, or why none does.
    fn grant(
        &mut self,
        reference: &Reference,
        annotations: Option<&Annotations>,
        wants_owner: bool,
        settings: &Settings,
    ) {
        let naming = || (1..).zip(settings.grants.iter()).filter(|(_, grant)| grant.names(reference));
        let none = Annotations::default();
        let decision = settings.grants.decide(reference, annotations.unwrap_or(&none), wants_owner, Caller::Root);
        match (decision, annotations) {
            (Ok(given), _) => {
                let position = naming().find(|(_, grant)| std::ptr::eq(*grant, given)).map(|(position, _)| position);
                self.grant = position;
                self.findings.push(Finding::ok("grant", describe(position.unwrap_or_default(), given)));
            }
            (Err(_), None) if naming().next().is_some() => {
                let given = naming().map(|(position, grant)| Finding::ok("grant", describe(position, grant)));
                self.findings.extend(given);
            }
            (Err(refusal), _) => {
                self.findings.push(Finding::problem("grant", &refusal));
                self.findings
                    .extend(naming().map(|(position, grant)| Finding::note("grant", describe(position, grant))));
            }
        }
    }

    /// Where the value is, and under which key; whether it opens, if the keys are there to try.
    async fn value(&mut self, field: Field, one: &Wanted, settings: &Settings, keys: Option<(&Keks<'_>, Deadline)>) {
        let Field { value, item_id, version } = field;
        let found = match (&item_id, version) {
            (Some(id), Some(version)) => format!(" ({id}, version {version})"),
            _ => String::new(),
        };
        let reference = &one.reference;
        let section = self.section.as_ref().map(|section| format!("section \"{section}\", ")).unwrap_or_default();
        let place =
            format!("vault \"{}\", item \"{}\"{found}, {section}field \"{}\"", self.vault, self.item, self.field);
        self.findings.push(Finding::ok("source", place));
        (self.item_id, self.item_version) = (item_id, version);
        if settings.deliver.plaintext == Permission::Allow && !is_sealed(&value) {
            self.findings.push(Finding::ok("seal", "none: the settings allow a value that is not sealed".into()));
            return;
        }
        let unusable = |source| CliError::Unseal { reference: reference.clone(), source };
        let sealed: SealedValue = match value.parse() {
            Ok(sealed) => sealed,
            Err(error) => return self.findings.push(Finding::problem("seal", &unusable(error))),
        };
        let kek = sealed.kek().clone();
        self.kek = Some(kek.to_string());
        if !settings.kek_is_listed(kek.as_str()) {
            let source = KekError::NotListed { kek: kek.to_string() };
            return self.findings.push(Finding::problem("seal", &unusable(SealError::Kek { source })));
        }
        let Some((keks, deadline)) = keys else {
            return self.findings.push(Finding::ok("seal", format!("under {kek}, which is listed; not opened")));
        };
        match sealed.unseal(reference, keks, deadline).await {
            Ok(unsealed) => {
                self.kek_version = unsealed.kek_version.name;
                self.findings.push(Finding::ok("seal", format!("under {kek}, which is listed; it opens")));
            }
            Err(error) => self.findings.push(Finding::problem("seal", &unusable(error))),
        }
    }

    fn no_value(&mut self, error: SourceError, one: &Wanted) {
        self.findings.push(match &error {
            missing if one.optional && is_missing(missing) => {
                self.is_left_out = true;
                Finding::ok("source", format!("left out, as it is optional: {missing}"))
            }
            _ => Finding::problem("source", &error),
        });
    }

    /// What the file will be, if nothing is in its way.
    fn file(&mut self) {
        let Some(path) = self.path.as_ref().filter(|_| !self.is_left_out) else { return };
        if self.findings.iter().any(|finding| finding.class().is_some()) {
            return;
        }
        let owner = self.owner.as_deref().unwrap_or("the user of the container's process");
        self.findings.push(Finding::ok("file", format!("{path}, mode 0400, owner {owner}")));
    }
}

/// A grant in words.
fn describe(position: usize, grant: &Grant) -> String {
    let list = |words: Vec<String>| words.join(", ");
    let references = list(grant.references().map(|pattern| format!("\"{pattern}\"")).collect());
    let namespace = grant.namespace().map(|pattern| format!("namespace = \"{pattern}\""));
    let annotations = grant.annotations().map(|(key, pattern)| format!("{key} = \"{pattern}\""));
    let annotations = list(namespace.into_iter().chain(annotations).collect());
    match annotations.as_str() {
        "" => format!("{position}: {references} to every container"),
        annotations => format!("{position}: {references} to containers with {annotations}"),
    }
}

impl Explanation {
    fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().chain(self.requests.iter().flat_map(|explained| &explained.findings))
    }

    fn table(&self) -> Table {
        let mut table = Table::default();
        table.line(&self.target);
        self.findings.iter().for_each(|finding| finding.write(&mut table));
        for explained in &self.requests {
            table.line("");
            let path = explained.path.as_ref().map(|path| format!("{path}  ")).unwrap_or_default();
            table.line(format_args!("{path}{}", explained.reference));
            explained.findings.iter().for_each(|finding| finding.write(&mut table));
        }
        table
    }
}
