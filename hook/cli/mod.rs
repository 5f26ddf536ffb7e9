//! `oci-secrets`: what operators and developers call. One file per verb.

mod annotate;
mod audit;
mod break_glass;
mod cache;
mod check;
mod completions;
mod env;
mod environment;
mod error;
mod explain;
mod finding;
mod inject;
mod install;
mod install_hook;
mod kek;
mod listed;
mod man;
mod nearest;
mod out_file;
mod read;
mod refresh;
mod request;
mod revoke;
mod rewrap;
mod run;
mod seal;
mod source;
mod stdio;
mod table;
mod token;
mod unseal;
mod wait;

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::fault::{AnyFault, Class};
use crate::reference::ReferenceError;
use crate::{harden, report, tls};
use environment::{default_settings, host, is_root, load};
use error::CliError;
use source::source;
use stdio::{read_input, write_json, write_output, write_table};
use wait::block_on;

pub use man::Help;
pub use stdio::PROGRAM;

/// Seals secrets for 1Password, and checks whether this host can deliver them.
#[derive(Parser)]
#[command(name = PROGRAM, version, max_term_width = 100, after_help = EXAMPLE)]
struct Arguments {
    /// The settings file [default: /etc/oci-secrets/settings.toml; without root, ~/.config/oci-secrets/settings.toml].
    #[arg(long, value_name = "PATH", global = true)]
    settings: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Seal(seal::Arguments),
    Unseal(unseal::Arguments),
    Rewrap(rewrap::Arguments),
    #[command(subcommand)]
    Kek(kek::Verb),
    Check(check::Arguments),
    Explain(explain::Arguments),
    Install(install::Arguments),
    Uninstall(install::UninstallArguments),
    InstallHook(install_hook::Arguments),
    Annotate(annotate::Arguments),
    Env(env::Arguments),
    Run(run::Arguments),
    Read(read::Arguments),
    Inject(inject::Arguments),
    Refresh(refresh::Arguments),
    Revoke(revoke::Arguments),
    Token(token::Arguments),
    #[command(subcommand)]
    Audit(audit::Verb),
    #[command(subcommand)]
    BreakGlass(break_glass::Verb),
    #[command(subcommand)]
    Cache(cache::Verb),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

const EXAMPLE: &str = "\
Example: seal a password for one field, and store the line that is printed there

  oci-secrets seal --kek \"$KEK\" --for op://AgentVault/db/password < password";

/// Runs the command that the process was started with.
///
/// `others` are the other programs, whose manual pages it writes.
pub fn run(others: &[Help]) -> ExitCode {
    harden::hide_memory();
    report::install_panic_hook(PROGRAM);
    tls::install();
    let outcome = match Arguments::try_parse() {
        Ok(arguments) => arguments.verb.run(&arguments.settings.unwrap_or_else(default_settings), others),
        Err(usage) => return report_usage(&usage),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if error.class() == Class::CommandLine => report::usage(PROGRAM, &*error),
        Err(error) => report::failed(PROGRAM, None, &*error),
    }
}

impl Verb {
    fn run(self, settings: &Path, others: &[Help]) -> Result<ExitCode, AnyFault> {
        match self {
            Verb::Seal(arguments) => seal::run(&arguments, &load(settings)?),
            Verb::Unseal(arguments) => unseal::run(&arguments, &load(settings)?),
            Verb::Rewrap(arguments) => rewrap::run(&arguments, &load(settings)?),
            Verb::Kek(verb) => kek::run(&verb, &load(settings)?),
            Verb::Check(arguments) => check::run(&arguments, settings),
            Verb::Explain(arguments) => explain::run(&arguments, settings),
            Verb::Install(arguments) => install::run(&arguments, settings),
            Verb::Uninstall(arguments) => install::uninstall(&arguments),
            Verb::InstallHook(arguments) => install_hook::run(&arguments, settings),
            Verb::Annotate(arguments) => annotate::run(&arguments),
            Verb::Env(arguments) => env::run(&arguments, settings),
            Verb::Run(arguments) => run::run(arguments, settings),
            Verb::Read(arguments) => read::run(&arguments, settings),
            Verb::Inject(arguments) => inject::run(&arguments, settings),
            Verb::Refresh(arguments) => refresh::run(&arguments, settings),
            Verb::Revoke(arguments) => revoke::run(&arguments, settings),
            Verb::Token(arguments) => token::run(&arguments),
            Verb::Audit(verb) => audit::run(&verb, settings),
            Verb::BreakGlass(verb) => break_glass::run(&verb, settings),
            Verb::Cache(verb) => cache::run(&verb, &load(settings)?),
            Verb::Completions(arguments) => completions::run(&arguments, &Arguments::command()),
            Verb::Man(arguments) => man::run(&arguments, Arguments::command(), others),
        }
    }
}

/// Prints help and version; everything else is a usage error, reported like any other error.
fn report_usage(usage: &clap::Error) -> ExitCode {
    if matches!(usage.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = usage.print();
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|argument| argument == "annotate") {
        annotate::stop_engine();
    }
    if usage.kind() == ErrorKind::UnknownArgument && run::lacks_separator() {
        return report::usage(PROGRAM, &run::no_command());
    }
    let text = usage.render().to_string();
    let message = match usage.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a subcommand is missing",
        _ => text.split("\n\n").next().unwrap_or_default(),
    };
    let message = message.strip_prefix("error: ").unwrap_or(message).split_whitespace().collect::<Vec<_>>().join(" ");
    let reference = usage.source().and_then(|error| error.downcast_ref::<ReferenceError>());
    let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let tip = tip.or(reference.and_then(ReferenceError::hint)).map(str::to_owned);
    report::usage(PROGRAM, &CliError::CommandLine { message, tip })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A terminal of 80 columns has 24 lines as a rule; few have less than 40 today.
    const SCREEN_LINES: usize = 40;

    /// The command line itself and every verb, by the words that call it.
    fn verbs(command: &clap::Command, words: &str) -> Vec<(String, clap::Command)> {
        let verbs = command.get_subcommands().filter(|verb| verb.get_name() != "help");
        let below = verbs.flat_map(|verb| self::verbs(verb, &format!("{words} {}", verb.get_name())));
        [(words.to_owned(), command.clone())].into_iter().chain(below).collect()
    }

    fn all() -> Vec<(String, clap::Command)> {
        let mut command = Arguments::command();
        command.build();
        verbs(&command, PROGRAM)
    }

    #[test]
    fn help_fits_a_screen() {
        for (words, _) in all() {
            let shown = Arguments::try_parse_from(words.split(' ').chain(["--help"])).err().unwrap();
            let lines = shown.render().to_string().lines().count();
            assert!(lines <= SCREEN_LINES, "{words} --help: {lines} lines");
        }
    }

    #[test]
    fn every_help_ends_with_an_example_that_parses() {
        for (words, command) in all().into_iter().filter(|(_, command)| !command.has_subcommands()) {
            let help = command.get_after_help().unwrap_or_else(|| panic!("{words}: no example")).to_string();
            let example = help
                .lines()
                .find(|line| line.contains(&format!("{words} ")))
                .unwrap_or_else(|| panic!("{words}: {help}"));
            let ours = example.split_once(PROGRAM).unwrap().1.split(['|', '<', '>']).next().unwrap();
            let kek = "local-kek:trial";
            let arguments = ours.split_whitespace().map(|word| word.replace("\"$KEK\"", kek));
            Arguments::try_parse_from([PROGRAM.to_owned()].into_iter().chain(arguments))
                .unwrap_or_else(|error| panic!("{example}: {error}"));
        }
    }
}
