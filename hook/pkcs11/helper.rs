//! `oci-secrets-pkcs11`: the process that loads a module.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use cryptoki::types::AuthPin;
use rustix::process::{Signal, set_parent_process_death_signal};
use zeroize::Zeroizing;

use super::token::Module;
use super::{Answer, LINE_BYTES_MAX, Request, Trouble};
use crate::harden;
use crate::settings::file::{self, Kind};

const PIN_BYTES_MAX: usize = 1024;

/// Serves who started it: `oci-secrets-pkcs11 MODULE [PIN-FILE]`.
pub fn run() -> ExitCode {
    harden::hide_memory();
    harden::lock_memory();
    // A module that waits for a device must not outlive who waits for it.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let mut arguments = std::env::args().skip(1);
    let (Some(module), pin_file, None) = (arguments.next(), arguments.next(), arguments.next()) else {
        return ExitCode::from(64);
    };
    match serve(&module, pin_file.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(71),
    }
}

fn serve(module: &str, pin_file: Option<&str>) -> io::Result<()> {
    let mut output = take_output()?;
    let mut input = BufReader::new(io::stdin().lock());
    let mut module = pin(pin_file).and_then(|pin| Module::load(module, pin));
    loop {
        let mut line = Zeroizing::new(Vec::new());
        if input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let request: Request = serde_json::from_slice(&line)?;
        let answer = match &mut module {
            Ok(module) => module.answer(&request),
            Err(trouble) => Err(trouble.clone()),
        };
        let mut line = Zeroizing::new(serde_json::to_vec(&answer.unwrap_or_else(Answer::Failed))?);
        line.push(b'\n');
        output.write_all(&line)?;
    }
}

/// Keeps standard output for our answers: what a module prints goes where standard error goes.
fn take_output() -> io::Result<File> {
    let output = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    Ok(File::from(output))
}

/// The PIN, which is what the file's first line says.
fn pin(path: Option<&str>) -> Result<Option<AuthPin>, Trouble> {
    let Some(path) = path else { return Ok(None) };
    let unusable = |why: String| Trouble::PinFile { why };
    let bytes =
        file::read(Path::new(path), Kind::Credential, PIN_BYTES_MAX).map_err(|error| unusable(error.to_string()))?;
    let text = str::from_utf8(&bytes).map_err(|_| unusable("it is not UTF-8".into()))?;
    match text.lines().next().unwrap_or_default() {
        "" => Err(unusable("it is empty".into())),
        pin => Ok(Some(AuthPin::from(pin))),
    }
}
