//! `oci-secrets`: what operators and developers call. One file per verb.

mod check;
mod install;
mod kek;
mod rewrap;
mod seal;
mod unseal;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use zeroize::Zeroizing;

use crate::engine::Host;
use crate::error::Error;
use crate::harden::is_root_of_the_host;
use crate::retry::Deadline;
use crate::settings::{SETTINGS_PATH, Settings};
use crate::{harden, report, tls};

/// How the command calls itself in messages.
pub const PROGRAM: &str = "oci-secrets";

/// The most that is read from standard input: a secret or a sealed value is far smaller.
const INPUT_BYTES_MAX: u64 = 1024 * 1024;

/// Seals secrets for 1Password, and tells whether this host can deliver them.
#[derive(Parser)]
#[command(name = PROGRAM, version, max_term_width = 100, after_help = EXAMPLE)]
struct Arguments {
    /// The settings file.
    #[arg(long, value_name = "PATH", default_value = SETTINGS_PATH, global = true)]
    settings: PathBuf,
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
    Install(install::Arguments),
}

const EXAMPLE: &str = "\
Example: seal a password for one field, and store the line that is printed there

  oci-secrets seal --kek \"$KEK\" --for op://AgentVault/db/password < password";

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    harden::hide_memory();
    report::own_up_to_bugs(PROGRAM);
    tls::install();
    let outcome = match Arguments::try_parse() {
        Ok(arguments) => arguments.verb.run(&arguments.settings),
        Err(usage) => return told_by_clap(&usage),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => report::failed(PROGRAM, None, &error),
    }
}

impl Verb {
    fn run(self, settings: &Path) -> Result<ExitCode, Error> {
        match self {
            Verb::Seal(arguments) => seal::run(&arguments, &load(settings)?),
            Verb::Unseal(arguments) => unseal::run(&arguments, &load(settings)?),
            Verb::Rewrap(arguments) => rewrap::run(&arguments, &load(settings)?),
            Verb::Kek(verb) => kek::run(&verb, &load(settings)?),
            Verb::Check(arguments) => check::run(&arguments, settings),
            Verb::Install(arguments) => install::run(&arguments, settings),
        }
    }
}

/// Help and version are answers; everything else is a mistake on the command line, told as every other error is.
fn told_by_clap(usage: &clap::Error) -> ExitCode {
    if matches!(usage.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = usage.print();
        return ExitCode::SUCCESS;
    }
    let text = usage.render().to_string();
    let message = match usage.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a subcommand is missing",
        _ => text.split("\n\n").next().unwrap_or_default(),
    };
    let message = message.strip_prefix("error: ").unwrap_or(message).split_whitespace().collect::<Vec<_>>().join(" ");
    report::failed(PROGRAM, None, &Error::CommandLine { message })
}

/// Whether this is the host's root, whose engines are everyone's. In a user namespace, as `podman unshare` makes one, root is a user
/// without root.
fn is_root() -> bool {
    is_root_of_the_host()
}

/// Where the engines of whoever runs this have their configuration: root's are the host's, another user's run without root.
fn host() -> Host {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = || variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let user = if is_root() { None } else { config() };
    Host { root: PathBuf::from("/"), user }
}

/// The settings of a user without root, unless others are told.
fn own_settings(told: &Path, host: &Host) -> Option<PathBuf> {
    let own = host.user.as_ref().map(|user| user.join("oci-secrets/settings.toml"));
    own.filter(|_| told == Path::new(SETTINGS_PATH))
}

fn load(path: &Path) -> Result<Settings, Error> {
    Settings::load(path).map_err(Error::Settings)
}

/// Runs what talks to the network, on this thread, under the settings' deadline.
fn block_on<T>(settings: &Settings, work: impl AsyncFnOnce(Deadline) -> Result<T, Error>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Runtime { errno: error.into() })?;
    runtime.block_on(async { work(Deadline::after(settings.deliver.deadline)).await })
}

/// The whole of standard input.
fn read_input() -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = io::stdin().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| Error::Input { errno: error.into() })?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(Error::LongInput { limit: INPUT_BYTES_MAX });
    }
    Ok(bytes)
}

fn write_output(bytes: &[u8]) -> Result<ExitCode, Error> {
    let mut output = io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(|error| Error::Output { errno: error.into() })?;
    Ok(ExitCode::SUCCESS)
}
