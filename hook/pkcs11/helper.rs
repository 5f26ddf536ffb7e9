//! `oci-secrets-pkcs11`: the process that loads a module.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Stdin, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use cryptoki::types::AuthPin;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, set_parent_process_death_signal};
use zeroize::Zeroizing;

use super::token::Module;
use super::{GREETING, LINE_BYTES_MAX, Pkcs11Error, Reply, Request, TokenAnswer};
use crate::harden;
use crate::settings::file::{self, Kind};

const PIN_BYTES_MAX: usize = 1024;

/// How many calls are under way at the most, each in a thread and a session of its own.
const CALLS_MAX: usize = 16;

/// Serves who started it: `oci-secrets-pkcs11 MODULE [PIN-FILE]`.
pub fn run() -> ExitCode {
    harden::hide_memory();
    harden::lock_memory();
    // A module that waits for a device must not outlive who waits for it.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    if nobody_reads() {
        return ExitCode::from(71);
    }
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
    // Before the module is loaded: if it then ends this process, the caller knows that the module did it.
    output.write_all(GREETING.as_bytes())?;
    let output = Mutex::new(output);
    let input = Mutex::new(BufReader::new(io::stdin()));
    let module = pin(pin_file).and_then(|pin| Module::load(module, pin));
    let at_once = if module.as_ref().is_ok_and(Module::takes_calls_at_once) { CALLS_MAX } else { 1 };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(|| answer(&input, &module, &output))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
    })
}

/// Answers one request after another, next to threads that do the same.
fn answer(
    input: &Mutex<BufReader<Stdin>>,
    module: &Result<Module, Pkcs11Error>,
    output: &Mutex<File>,
) -> io::Result<()> {
    loop {
        let mut line = Zeroizing::new(Vec::new());
        if lock(input).by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let request: Request = serde_json::from_slice(&line)?;
        let answer = module.as_ref().map_err(Pkcs11Error::clone).and_then(|module| module.answer(&request));
        let reply = Reply { id: request.id, answer: answer.unwrap_or_else(TokenAnswer::Failed) };
        let mut line = Zeroizing::new(serde_json::to_vec(&reply)?);
        line.push(b'\n');
        lock(output).write_all(&line)?;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the parent had ended before the signal was set.
fn nobody_reads() -> bool {
    let output = io::stdout();
    let mut output = [PollFd::new(&output, PollFlags::empty())];
    poll(&mut output, Some(&Timespec::default())).is_ok()
        && output.iter().any(|fd| fd.revents().contains(PollFlags::ERR))
}

/// Keeps standard output for our answers: what a module prints goes where standard error goes.
fn take_output() -> io::Result<File> {
    let output = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    Ok(File::from(output))
}

/// The PIN, which is what the file's first line says.
fn pin(path: Option<&str>) -> Result<Option<AuthPin>, Pkcs11Error> {
    let Some(path) = path else { return Ok(None) };
    let unusable = |why: String| Pkcs11Error::PinFile { why };
    let bytes =
        file::read(Path::new(path), Kind::Credential, PIN_BYTES_MAX).map_err(|error| unusable(error.to_string()))?;
    let text = str::from_utf8(&bytes).map_err(|_| unusable("it is not UTF-8".into()))?;
    match text.lines().next().unwrap_or_default() {
        "" => Err(unusable("it is empty".into())),
        pin => Ok(Some(AuthPin::from(pin))),
    }
}
