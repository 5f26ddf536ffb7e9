//! `oci-secrets completions`: what a shell needs to complete our command lines.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::{PROGRAM, write_output};
use crate::fault::AnyFault;

/// Print a shell's completions.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// The shell.
    shell: Shell,
}

const EXAMPLE: &str = "\
Example: for every user of bash

  oci-secrets completions bash | sudo tee /usr/share/bash-completion/completions/oci-secrets";

#[derive(Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The name of the command in what is generated for bash, from which clap_complete makes names of functions: of a name with a hyphen it
/// makes two different ones, and completes nothing after the first word.
const NAME_IN_BASH: &str = "oci_secrets";

pub(super) fn run(arguments: &Arguments, command: &clap::Command) -> Result<ExitCode, AnyFault> {
    let shell = match arguments.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    match arguments.shell {
        Shell::Bash => {
            clap_complete::generate(shell, &mut visible(command), NAME_IN_BASH, &mut script);
            let ours = String::from_utf8_lossy(&script);
            write_output(ours.replace(&format!(" {NAME_IN_BASH}\n"), &format!(" {PROGRAM}\n")).as_bytes())
        }
        Shell::Zsh => {
            clap_complete::generate(shell, &mut visible(command), PROGRAM, &mut script);
            write_output(&script)
        }
        Shell::Fish => {
            clap_complete::generate(shell, &mut visible(command), PROGRAM, &mut script);
            script.extend(third_level_in_fish(&visible(command)).into_bytes());
            write_output(&script)
        }
    }
}

/// The options of verbs such as `break-glass rotation waive`, for which clap_complete generates none.
fn third_level_in_fish(command: &clap::Command) -> String {
    let mut script = String::new();
    let groups = command.get_subcommands().flat_map(|verb| verb.get_subcommands().map(move |group| (verb, group)));
    for (verb, group) in groups {
        for leaf in group.get_subcommands() {
            let (verb, group, name) = (verb.get_name(), group.get_name(), leaf.get_name());
            for option in leaf.get_arguments() {
                let Some(long) = option.get_long() else { continue };
                let help = option.get_help().map(ToString::to_string).unwrap_or_default();
                let help = help.replace('\\', "\\\\").replace('\'', "\\'");
                let value = if option.get_action().takes_values() { " -r" } else { "" };
                let _ = writeln!(
                    script,
                    "complete -c {PROGRAM} -n \"__fish_oci_secrets_using_subcommand {verb}; \
                     and __fish_seen_subcommand_from {group}; and __fish_seen_subcommand_from {name}\" \
                     -l {long} -d '{help}'{value}"
                );
            }
        }
    }
    script
}

/// The command without its hidden verbs, which clap_complete lists.
fn visible(command: &clap::Command) -> clap::Command {
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(visible);
    let mut shown = clap::Command::new(command.get_name().to_owned()).subcommands(verbs);
    shown = shown.args(command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned());
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        shown = shown.version(version.to_owned());
    }
    shown
}
