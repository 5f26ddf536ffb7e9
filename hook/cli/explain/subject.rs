//! What is to be explained: who asks for what.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use clap::ValueEnum;
use serde::Deserialize;

use crate::cli::error::CliError;
use crate::cli::finding::Finding;
use crate::container::{
    Annotations, FileName, ImageError, Owner, Requests, Spec, annotations_of_image, is_ours, is_reference, read_spec,
};
use crate::deliver::preflight;
use crate::engine::inspect::{self, Described};
use crate::engine::{BundleError, EngineError, has_hook};
use crate::envrc::{self, EnvrcError, Variable};
use crate::fault::AnyFault;
use crate::json;
use crate::reference::{Reference, ReferenceError};

/// The engines that describe their containers.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum Whose {
    Podman,
    Docker,
    Containerd,
    Crio,
}

impl Whose {
    fn name(self) -> &'static str {
        match self {
            Whose::Podman => "podman",
            Whose::Docker => "docker",
            Whose::Containerd => "containerd",
            Whose::Crio => "crio",
        }
    }

    fn describe(self, container: &str) -> Result<Described, EngineError> {
        match self {
            Whose::Podman => inspect::podman(container),
            Whose::Docker => inspect::docker(container),
            Whose::Containerd => inspect::containerd(container),
            Whose::Crio => inspect::crio(container),
        }
    }
}

/// The containers of this name or id, of one engine or of all that answer.
fn described(container: &str, engine: Option<Whose>) -> Vec<(Whose, Described)> {
    let engines = Whose::value_variants().iter().filter(|one| engine.is_none_or(|engine| engine == **one));
    engines.filter_map(|engine| Some((*engine, engine.describe(container).ok()?))).collect()
}

/// The ids of the containers of this name.
pub(super) fn ids(container: &str, engine: Option<Whose>) -> Vec<String> {
    described(container, engine).into_iter().map(|(_, described)| described.id).collect()
}

/// What a word of the command line names.
#[derive(Clone)]
pub(super) enum Target {
    Reference(Reference),
    /// The directory of a bundle, a file such as `.envrc`, or a container of an engine.
    Name(String),
}

impl FromStr for Target {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Target, ReferenceError> {
        if text.starts_with("op:") { text.parse().map(Target::Reference) } else { Ok(Target::Name(text.to_owned())) }
    }
}

/// Who asks, and for what.
pub(super) struct Subject {
    /// In words: `container 4f2a9c1b77de`.
    pub(super) name: String,
    /// The container's id, if it is one that an engine has.
    pub(super) id: Option<String>,
    /// The annotations by which grants decide; `None` where no container is there yet.
    pub(super) annotations: Option<Annotations>,
    /// What is asked for.
    pub(super) requests: Vec<Wanted>,
    /// Whether an owner is asked for other than the user of the process.
    pub(super) wants_owner: bool,
    /// Who will own the files, in the container's ids, as far as it is known.
    pub(super) owner: Option<Owner>,
    /// What is to be said before any reference is looked at.
    pub(super) findings: Vec<Finding>,
}

/// One reference, and the file that it shall be.
pub(super) struct Wanted {
    pub(super) file: Option<FileName>,
    pub(super) reference: Reference,
    pub(super) optional: bool,
}

impl Subject {
    /// Finds out who that is.
    pub(super) fn find(target: &Target, engine: Option<Whose>) -> Result<Subject, AnyFault> {
        let name = match target {
            Target::Reference(reference) => return Ok(Subject::of_reference(reference.clone())),
            Target::Name(name) => name,
        };
        let path = Path::new(name);
        match engine {
            Some(engine) => Ok(Subject::of_container(engine.describe(name)?)),
            None if path.is_file() => Ok(Subject::of_envrc(path)?),
            None if path.is_dir() || name.contains('/') => Ok(Subject::of_bundle(format!("bundle {name}"), path)),
            None => Subject::of_any_engine(name),
        }
    }

    /// A container of the one engine that has a container of this name.
    fn of_any_engine(name: &str) -> Result<Subject, AnyFault> {
        let mut found = described(name, None);
        match (found.pop(), found.is_empty()) {
            (None, _) => Err(CliError::NoTarget { name: name.to_owned() }.into()),
            (Some((_, described)), true) => Ok(Subject::of_container(described)),
            (Some((last, _)), false) => {
                let engines: Vec<_> = found.iter().map(|(engine, _)| engine.name()).chain([last.name()]).collect();
                Err(CliError::Ambiguous { name: name.to_owned(), engines: engines.join(" and ") }.into())
            }
        }
    }

    fn of_reference(reference: Reference) -> Subject {
        let name = format!("reference {reference}");
        Subject { requests: vec![Wanted { file: None, reference, optional: false }], ..Subject::without_requests(name) }
    }

    fn of_envrc(path: &Path) -> Result<Subject, EnvrcError> {
        let wanted =
            |variable: Variable| Wanted { file: Some(variable.file), reference: variable.reference, optional: false };
        let requests = envrc::unite(envrc::read(path)?.variables)?.into_iter().map(wanted).collect();
        Ok(Subject { requests, ..Subject::without_requests(path.display().to_string()) })
    }

    fn of_container(Described { id, bundle, annotations, user }: Described) -> Subject {
        let name = format!("container {id}");
        let subject = match bundle {
            Some(bundle) => Subject::of_bundle(name, &bundle),
            None => Subject { owner: user, ..Subject::without_requests(name) }.asks(Annotations::new(annotations)),
        };
        Subject { id: Some(id), ..subject }
    }

    /// A container as its runtime has it.
    fn of_bundle(name: String, bundle: &Path) -> Subject {
        let bundle = std::path::absolute(bundle).unwrap_or_else(|_| bundle.to_owned());
        let mut subject = Subject::without_requests(name);
        let Fields { annotations, calls_hook } = match Fields::read(&bundle.join("config.json")) {
            Ok(fields) => fields,
            Err(error) => {
                subject.findings.push(Finding::problem("spec", &error));
                return subject;
            }
        };
        match Spec::load(&bundle) {
            Ok(spec) => {
                subject.owner = spec.user;
                subject.findings.extend(preflight(&spec).err().map(|e| Finding::problem("spec", &e)));
            }
            Err(error) => subject.findings.push(Finding::problem("spec", &error)),
        }
        let annotations = Annotations::new(annotations);
        let annotations = match annotations_of_image(&bundle) {
            Ok(image) => annotations.with_image(image),
            Err(error) => {
                subject.findings.push(Finding::problem("image", &error));
                annotations
            }
        };
        let mut subject = subject.asks(annotations);
        if !subject.requests.is_empty() && !calls_hook {
            let error = CliError::NotCalled { path: bundle.join("config.json") };
            subject.findings.push(Finding::problem("hook", &error));
        }
        subject
    }

    fn without_requests(name: String) -> Subject {
        Subject {
            name,
            id: None,
            annotations: None,
            requests: Vec::new(),
            wants_owner: false,
            owner: None,
            findings: Vec::new(),
        }
    }

    /// Takes the requests from annotations, without those that are wrong.
    fn asks(mut self, annotations: Annotations) -> Subject {
        if annotations.is_sandbox() {
            self.findings.push(Finding::ok("hook", "the sandbox of a pod is given nothing".into()));
            return Subject { annotations: Some(annotations), ..self };
        }
        let mut usable = annotations.clone();
        let requests = loop {
            if let Some(key) = usable.of_image(|key, value| is_ours(key) || is_reference(value)).map(str::to_owned) {
                usable.remove(&key);
                self.findings.push(Finding::problem("annotations", &ImageError::Request { key }));
                continue;
            }
            match Requests::from_annotations(&usable) {
                Ok(requests) => break requests,
                Err(error) => {
                    let left = error.key().is_some_and(|key| usable.remove(key));
                    self.findings.push(Finding::problem("annotations", &error));
                    if !left {
                        break None;
                    }
                }
            }
        };
        let (files, owner) = requests.map(|requests| (requests.files, requests.owner)).unwrap_or_default();
        self.requests.extend(files.into_iter().map(|request| Wanted {
            file: Some(request.file),
            reference: request.reference,
            optional: request.optional,
        }));
        Subject { annotations: Some(annotations), wants_owner: owner.is_some(), owner: owner.or(self.owner), ..self }
    }
}

/// What is read of a spec beyond what a delivery needs.
struct Fields {
    annotations: BTreeMap<String, String>,
    calls_hook: bool,
}

impl Fields {
    fn read(path: &Path) -> Result<Fields, BundleError> {
        #[derive(Deserialize)]
        struct Annotated {
            annotations: Option<BTreeMap<String, String>>,
        }
        let invalid = |source| BundleError::Json { path: path.to_owned(), source };
        let text = read_spec(path)?;
        let Annotated { annotations } = json::from_slice(&text).map_err(invalid)?;
        let calls_hook = has_hook(&String::from_utf8_lossy(&text)).map_err(invalid)?;
        Ok(Fields { annotations: annotations.unwrap_or_default(), calls_hook })
    }
}
