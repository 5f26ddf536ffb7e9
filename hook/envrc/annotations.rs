//! Variables as the annotations that request their files, in the form that each engine takes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::json;

use super::{EnvrcError, Variable};

/// The engine or file that takes the annotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `podman run`: options.
    Podman,
    /// `docker run`, from Docker 24: the same options.
    Docker,
    /// `nerdctl run`: the same options.
    Nerdctl,
    /// `metadata` of a pod's manifest.
    Kubernetes,
    /// An object to merge with a bundle's `config.json`.
    Oci,
    /// A service of a compose file.
    Compose,
    /// A `.container` file of podman's Quadlet.
    Quadlet,
}

/// How the output is split into arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Each word is one: a shell splits the output of `$(…)`.
    Words,
    /// Each line is one.
    Lines,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 7] = [
        Format::Podman,
        Format::Docker,
        Format::Nerdctl,
        Format::Kubernetes,
        Format::Oci,
        Format::Compose,
        Format::Quadlet,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Podman => "podman",
            Format::Docker => "docker",
            Format::Nerdctl => "nerdctl",
            Format::Kubernetes => "kubernetes",
            Format::Oci => "oci",
            Format::Compose => "compose",
            Format::Quadlet => "quadlet",
        }
    }

    /// Whether it consists of command line options.
    pub fn is_options(self) -> bool {
        matches!(self, Format::Podman | Format::Docker | Format::Nerdctl)
    }

    /// The annotations that request the files of these variables.
    ///
    /// # Errors
    /// A reference has a space, at which a shell would split the option.
    pub fn text(self, variables: &[Variable], split: Split) -> Result<String, EnvrcError> {
        match self {
            Format::Podman | Format::Docker | Format::Nerdctl => options(variables, split),
            Format::Kubernetes => Ok(format!("metadata:\n{}", indented(&yaml(variables)))),
            Format::Compose => Ok(yaml(variables)),
            Format::Quadlet => Ok(quadlet(variables)),
            Format::Oci => {
                let annotations: BTreeMap<String, String> = variables.iter().map(annotation).collect();
                Ok(format!("{:#}\n", json!({ "annotations": annotations })))
            }
        }
    }
}

fn annotation(variable: &Variable) -> (String, String) {
    (format!("run.secrets/{}", variable.file), variable.reference.to_string())
}

/// A shell expands nothing in them but a space, and the `?` of a query, which matches no file. podman 4 splits values at commas,
/// which no reference has.
fn options(variables: &[Variable], split: Split) -> Result<String, EnvrcError> {
    let mut text = String::new();
    for variable in variables {
        let (key, value) = annotation(variable);
        if split == Split::Words && value.contains(' ') {
            return Err(EnvrcError::Space { name: variable.name.clone(), reference: variable.reference.clone() });
        }
        let _ = writeln!(text, "--annotation={key}={value}");
    }
    Ok(text)
}

/// Neither keys nor references have a character that needs an escape.
fn yaml(variables: &[Variable]) -> String {
    if variables.is_empty() {
        return "annotations: {}\n".to_owned();
    }
    let mut text = "annotations:\n".to_owned();
    for (key, value) in variables.iter().map(annotation) {
        let _ = writeln!(text, "  {key}: \"{value}\"");
    }
    text
}

/// Quoted, because Quadlet splits a value at spaces. Neither keys nor references have a character that systemd expands.
fn quadlet(variables: &[Variable]) -> String {
    let mut text = "[Container]\n".to_owned();
    for (key, value) in variables.iter().map(annotation) {
        let _ = writeln!(text, "Annotation=\"{key}={value}\"");
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
