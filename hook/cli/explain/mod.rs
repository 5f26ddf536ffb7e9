//! `oci-secrets explain`: what a container would be given, and why or why not.
//!
//! It does what a start does, but continues after a problem, and shows all of them. Values are unsealed and dropped, never shown.

mod last;
mod pod;
mod subject;

use std::path::Path;
use std::process::ExitCode;

use futures_util::StreamExt as _;
use serde::Serialize;

use super::finding::Finding;
use super::source::Choice;
use super::table::Table;
use super::{block_on, check, load, source, write_json, write_table};
use crate::broker::revoked::{Revocation, RevokedError, Value};
use crate::cli::error::CliError;
use crate::container::{Annotations, FILES_MAX, FileName, Pod};
use crate::fault::AnyFault;
use crate::reference::Reference;
use crate::resolve::is_missing;
use crate::retry::Deadline;
use crate::seal::kek::{KekError, Keks};
use crate::seal::{SealError, SealedValue, is_sealed};
use crate::settings::{Caller, Grant, Permission, Settings};
use crate::source::{Fetched, Field, Source, SourceError};
use check::broker::Deciding;
use subject::{Subject, Target, Wanted, Whose};

/// Explain what a container would be given, and why or why not.
///
/// Which grant allows each reference, which item it resolves to, whether the value can be unsealed, and what the file will be. It
/// shows every problem, not the first alone, and ends with the exit code of the first. Values are never shown.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// A bundle's directory, an .envrc, a reference, or a container.
    #[arg(value_name = "TARGET", required_unless_present = "last")]
    target: Option<Target>,
    /// The container's engine: podman, docker or containerd; by default, all are asked.
    #[arg(long, value_enum, hide_possible_values = true)]
    engine: Option<Whose>,
    /// Print the hook's last refusal of this container, or of any, as the hook printed it.
    #[arg(long, conflicts_with_all = ["no_unseal", "source"])]
    last: bool,
    /// Do not unseal the values: the KMS is not asked.
    #[arg(long)]
    no_unseal: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    choice: Choice,
}

const EXAMPLE: &str = "\
Example: why did this container not start, and would it start now

  oci-secrets explain --last agent
  oci-secrets explain agent";

/// All that is known.
#[derive(Serialize)]
struct Explanation {
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Pod>,
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
    #[serde(skip)]
    field_id: Option<String>,
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
    let target = match &arguments.target {
        Some(target) if !arguments.last => target,
        target => return last::run(target.as_ref(), arguments.engine, arguments.json),
    };
    let subject = Subject::find(target, arguments.engine)?;
    let settings = load(settings_path).map(|settings| arguments.choice.over(settings));
    let explanation = explain(subject, settings, &arguments.choice, !arguments.no_unseal);
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

fn explain(subject: Subject, settings: Result<Settings, AnyFault>, choice: &Choice, unseal: bool) -> Explanation {
    let mut requests: Vec<Explained> = subject.requests.iter().map(|one| Explained::of(one, &subject)).collect();
    let Subject { name, id, annotations, requests: wanted, wants_owner, mut findings, .. } = subject;
    let mut pod = None;
    if wanted.is_empty() && findings.is_empty() {
        findings.push(Finding::ok("hook", "nothing is asked for, and the container starts without us".into()));
    }
    match settings {
        Err(error) => findings.push(Finding::problem("settings", &*error)),
        Ok(settings) => {
            if !wanted.is_empty() {
                findings.extend(check::broker::findings(&settings));
            }
            let (id, broker) = (id.as_deref(), settings.broker.address());
            findings.extend(id.iter().flat_map(|id| check::broker::running(id, &settings)));
            let revocations = check::broker::revocations(&settings);
            let (deciding, finding) = Deciding::of(settings, choice);
            findings.extend(finding);
            if let Some(settings) = deciding.settings() {
                let references: Vec<&Reference> = wanted.iter().map(|one| &one.reference).collect();
                let found = id.zip(broker).and_then(|(id, broker)| pod::of(id, broker, &references, settings));
                if let Some((known, finding)) = found {
                    pod = known;
                    findings.push(finding);
                }
                for (explained, one) in requests.iter_mut().zip(&wanted) {
                    explained.grant(&one.reference, annotations.as_ref(), wants_owner, settings, pod.as_ref());
                }
                if let Err(error) = fetch(&mut requests, &wanted, settings, unseal) {
                    findings.push(Finding::problem("source", &*error));
                }
            }
            requests.iter_mut().for_each(|explained| explained.revoked(&revocations));
        }
    }
    if findings.iter().all(|finding| finding.class().is_none()) {
        requests.iter_mut().for_each(Explained::file);
    }
    Explanation { target: name, pod, findings, requests }
}

/// Fetches every reference, and unseals each value when it arrives, as a start does.
fn fetch(requests: &mut [Explained], wanted: &[Wanted], settings: &Settings, unseal: bool) -> Result<(), AnyFault> {
    let references: Vec<&Reference> = wanted.iter().map(|one| &one.reference).collect();
    if references.is_empty() {
        return Ok(());
    }
    let source: Box<dyn Source> = source(settings)?;
    block_on(settings, async |deadline| {
        let keks = Keks::new(settings);
        let keys = unseal.then_some((&keks, deadline));
        let fetched = source.fetch(&references, deadline).map(|Fetched { index, outcome }| async move {
            let value = match (outcome, wanted.get(index)) {
                (Ok(field), Some(one)) => Ok(Known::of(field, &one.reference, settings, keys).await),
                (Err(error), _) => Err(error),
                (Ok(_), None) => return None,
            };
            Some((index, value))
        });
        let mut values = fetched.buffer_unordered(FILES_MAX);
        while let Some(value) = values.next().await {
            let Some((index, value)) = value else { continue };
            let (Some(explained), Some(one)) = (requests.get_mut(index), wanted.get(index)) else { continue };
            match value {
                Ok(value) => explained.value(value),
                Err(error) => explained.no_value(error, one),
            }
        }
        Ok(())
    })
}

/// What is known of a value, without the value.
struct Known {
    item_id: Option<String>,
    field_id: Option<String>,
    item_version: Option<u64>,
    kek: Option<String>,
    kek_version: Option<String>,
    finding: Finding,
}

impl Known {
    /// Whether the value can be unsealed, and under which key; without keys, only whether the key is listed.
    async fn of(
        field: Field,
        reference: &Reference,
        settings: &Settings,
        keys: Option<(&Keks<'_>, Deadline)>,
    ) -> Known {
        let Field { value, item_id, field_id, version: item_version, earlier: _ } = field;
        let found = |finding| Known { item_id, field_id, item_version, kek: None, kek_version: None, finding };
        if settings.deliver.plaintext == Permission::Allow && !is_sealed(&value) {
            return found(Finding::ok("seal", "none: the settings allow a value that is not sealed".into()));
        }
        let problem = |source| Finding::problem("seal", &CliError::Unseal { reference: reference.clone(), source });
        let sealed: SealedValue = match value.parse() {
            Ok(sealed) => sealed,
            Err(error) => return found(problem(error)),
        };
        let kek = sealed.kek().to_string();
        let mut kek_version = None;
        let finding = match keys {
            _ if !settings.kek_is_listed(&kek) => {
                problem(SealError::Kek { source: KekError::NotListed { kek: kek.clone() } })
            }
            None => {
                Finding::note("seal", format!("under {kek}, which is listed; not tested whether it can be unsealed"))
            }
            Some((keks, deadline)) => match sealed.unseal(reference, keks, deadline).await {
                Ok(unsealed) => {
                    kek_version = unsealed.kek_version.name;
                    Finding::ok("seal", format!("under {kek}, which is listed; unsealed"))
                }
                Err(error) => problem(error),
            },
        };
        Known { kek: Some(kek), kek_version, ..found(finding) }
    }
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
            field_id: None,
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
        pod: Option<&Pod>,
    ) {
        let naming = || (1..).zip(settings.grants.iter()).filter(|(_, grant)| grant.names(reference));
        let none = Annotations::default();
        let caller = pod.map_or(Caller::Root, Caller::Pod);
        let decision = settings.grants.decide(reference, annotations.unwrap_or(&none), wants_owner, caller);
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

    /// Where the value is, and whether it can be unsealed.
    fn value(&mut self, Known { item_id, field_id, item_version, kek, kek_version, finding }: Known) {
        let found = match (&item_id, item_version) {
            (Some(id), Some(version)) => format!(" ({id}, version {version})"),
            _ => String::new(),
        };
        let section = self.section.as_ref().map(|section| format!("section \"{section}\", ")).unwrap_or_default();
        let place =
            format!("vault \"{}\", item \"{}\"{found}, {section}field \"{}\"", self.vault, self.item, self.field);
        self.findings.extend([Finding::ok("source", place), finding]);
        (self.item_id, self.field_id, self.item_version) = (item_id, field_id, item_version);
        (self.kek, self.kek_version) = (kek, kek_version);
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

    /// Whether a start would be refused because it was revoked.
    fn revoked(&mut self, revocations: &[Revocation]) {
        let value = Value {
            reference: &self.reference,
            item: self.item_id.as_deref(),
            field: self.field_id.as_deref(),
            version: self.item_version,
            is_of_source: true,
        };
        let found = revocations.iter().find(|revocation| revocation.covers(value)).map(RevokedError::from);
        self.findings.extend(found.map(|error| Finding::problem("revoked", &error)));
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
    let account = grant.service_account().map(|pattern| format!("service-account = \"{pattern}\""));
    let labels = grant.labels().map(|(key, pattern)| format!("label {key} = \"{pattern}\""));
    let annotations = grant.annotations().map(|(key, pattern)| format!("{key} = \"{pattern}\""));
    let annotations = list(namespace.into_iter().chain(account).chain(labels).chain(annotations).collect());
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
