//! Python programs with official clients and libraries.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::skip;

/// Fails if a package of the given file is not installed.
const PACKAGES_ARE_INSTALLED: &str = "
import importlib.metadata, re, sys
[importlib.metadata.version(re.split(r'[[=]', line)[0]) for line in open(sys.argv[1]) if '==' in line]
";

/// A program of `tests/support/clients`, without arguments.
///
/// The interpreter is `$OCI_SECRETS_PYTHON`, which has the packages of `requirements.txt`. Without them it returns `None`, and the
/// test must be skipped.
pub(crate) fn client(program: &str) -> Option<Command> {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clients");
    let packages = clients.join("requirements.txt");
    let python = std::env::var_os("OCI_SECRETS_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let check = Command::new(&python).args(["-c", PACKAGES_ARE_INSTALLED]).arg(&packages).output();
    if !check.is_ok_and(|output| output.status.success()) {
        skip(&format!("{} lacks {}", python.display(), packages.display()));
        return None;
    }
    let mut command = Command::new(python);
    command.arg(clients.join(program));
    Some(command)
}
