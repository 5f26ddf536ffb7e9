//! `oci-secrets inject`: templates, rendered with their secrets.

use std::fs::File;
use std::io::{IsTerminal, Read, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::listed::secrets;
use super::out_file::OutFile;
use super::request::request;
use super::source::Choice;
use super::{load, write_output};
use crate::container::{FILES_MAX, Request};
use crate::errno::Errno;
use crate::fault::{AnyFault, Class, Fault};
use crate::template::{RENDERED_BYTES_MAX, RenderError, TEMPLATE_BYTES_MAX, Template, TemplateError};

/// Render a template with its secrets.
///
/// `{{ op://vault/item/field }}` and a reference without braces stand for a secret, `{{ "text" }}` for the text between the quotes. Any
/// other use of `{{` is an error, as is an empty secret, and variables are not expanded. All secrets are fetched at once, and the output is
/// written as a whole or not at all. A container can have a rendered file without this command: its annotation may hold the template.
#[derive(clap::Args)]
#[command(after_help = "\
Example: a configuration file in memory

  oci-secrets inject -i config.yaml.tpl -o /run/user/1000/config.yaml")]
pub(super) struct Arguments {
    /// The template; standard input by default.
    #[arg(short, long = "in-file", value_name = "FILE")]
    input: Option<PathBuf>,
    #[command(flatten)]
    output: OutFile,
    #[command(flatten)]
    choice: Choice,
}

pub(super) fn run(arguments: &Arguments, settings_path: &Path) -> Result<ExitCode, AnyFault> {
    if let Some(path) = arguments.output.path() {
        arguments.output.check(path)?;
    }
    let name = arguments.input.as_ref().map_or("standard input".to_owned(), |path| path.display().to_string());
    let failed = |source| InjectError::Template { name: name.clone(), source };
    let template: Template = read(arguments.input.as_deref(), &name)?.parse().map_err(failed)?;
    let requests: Vec<Request> = template.references().into_iter().map(request).collect();
    if requests.len() > FILES_MAX {
        return Err(InjectError::TooMany { name, found: requests.len() }.into());
    }
    let resolved = secrets(&requests, &arguments.choice.over(load(settings_path)?))?;
    let secret = |reference: &_| resolved.iter().find(|one| one.request.reference == *reference).map(|one| &one.secret);
    let rendered = template
        .render(secret, RENDERED_BYTES_MAX)
        .map_err(|source| InjectError::Render { name: name.clone(), source })?;
    // None of these requests is optional: each has a secret.
    let rendered = rendered.ok_or(InjectError::NoSecret { name })?;
    match arguments.output.path() {
        Some(path) => {
            arguments.output.write(path, &rendered)?;
            Ok(ExitCode::SUCCESS)
        }
        None => write_output(rendered.expose()),
    }
}

fn read(path: Option<&Path>, name: &str) -> Result<String, InjectError> {
    let failed = |error: std::io::Error| InjectError::Read { name: name.to_owned(), errno: error.into() };
    let input: Box<dyn Read> = match path {
        Some(path) => Box::new(File::open(path).map_err(failed)?),
        None if stdin().is_terminal() => return Err(InjectError::NoInput),
        None => Box::new(stdin()),
    };
    let mut bytes = Vec::new();
    input.take(TEMPLATE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    String::from_utf8(bytes).map_err(|_| InjectError::NotText { name: name.to_owned() })
}

/// Why a template is not rendered.
#[derive(Debug, thiserror::Error)]
pub(super) enum InjectError {
    /// A terminal is no template.
    #[error("expected --in-file FILE, or a template on standard input")]
    NoInput,
    /// The file cannot be opened or read.
    #[error("cannot read {name}")]
    Read {
        name: String,
        #[source]
        errno: Errno,
    },
    /// Binary data.
    #[error("cannot render {name}: it is not UTF-8")]
    NotText { name: String },
    /// The template is wrong.
    #[error("cannot render {name}")]
    Template { name: String, source: TemplateError },
    /// More references than one start of a container may have.
    #[error("cannot render {name}: it has {found} references, at most {FILES_MAX} are allowed")]
    TooMany { name: String, found: usize },
    /// The secrets are too large.
    #[error("cannot render {name}")]
    Render { name: String, source: RenderError },
    /// A reference has no secret.
    #[error("cannot render {name}: a reference has no secret")]
    NoSecret { name: String },
}

impl Fault for InjectError {
    fn class(&self) -> Class {
        match self {
            InjectError::NoInput => Class::CommandLine,
            InjectError::Read { .. } => Class::Kernel,
            InjectError::NotText { .. } | InjectError::TooMany { .. } => Class::Data,
            InjectError::Template { source, .. } => source.class(),
            InjectError::Render { source, .. } => source.class(),
            InjectError::NoSecret { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            InjectError::Template { source, .. } => source.hint(),
            _ => None,
        }
    }
}
