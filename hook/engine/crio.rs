//! CRI-O, which reads the same directories of hook files as podman, and has settings of its own for them.
//!
//! See [crio.conf(5)](https://github.com/cri-o/cri-o/blob/main/docs/crio.conf.5.md).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::hooks_dir::{Configured, HooksDir};
use super::{Calls, Change, EngineError, Hook, Host, hooks_d};

const FILE: &str = "/etc/crio/crio.conf";
const DROP_INS: &str = "/etc/crio/crio.conf.d";

/// The files that make CRI-O call the hook.
pub(super) fn install(host: &Host, hook: &Hook) -> Result<Vec<Change>, EngineError> {
    configured(&Options::of_daemon(host)?).install(host, hook)
}

/// The removal of these files.
pub(super) fn uninstall(host: &Host) -> Result<Vec<Change>, EngineError> {
    configured(&Options::of_daemon(host)?).uninstall(host)
}

/// The files by which CRI-O will call the hook.
pub(super) fn calls(host: &Host) -> Result<Calls, EngineError> {
    configured(&Options::of_daemon(host)?).calls(host)
}

fn configured(options: &Options) -> Configured<'_> {
    Configured {
        in_effect: Box::new(|host| options.in_effect(host)),
        directory: hooks_d::DIRECTORY.into(),
        drop_ins: options.drop_ins.clone(),
        table: "crio.runtime",
    }
}

/// What the command line and the environment of a running daemon say. A daemon that does not run is taken to have the defaults.
struct Options {
    file: PathBuf,
    drop_ins: PathBuf,
    /// The directories, and the option or variable that names them.
    hooks_dir: Option<(Vec<PathBuf>, String)>,
}

impl Options {
    /// Of the daemon, by its name in `/proc`.
    fn of_daemon(host: &Host) -> Result<Options, EngineError> {
        let proc = host.path("/proc");
        let is_process =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().iter().all(u8::is_ascii_digit));
        let processes = std::fs::read_dir(&proc).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut daemons: Vec<PathBuf> = processes.filter(is_process).filter(|process| is_daemon(process)).collect();
        daemons.sort();
        Ok(daemons.first().map_or_else(|| Options::of("", &[], &[]), |process| Options::of_process(process)))
    }

    fn of_process(process: &Path) -> Options {
        // A process that ended, or is not ours to look at, has the defaults.
        let words = |file: &str| split(&std::fs::read(process.join(file)).unwrap_or_default());
        let id = process.file_name().unwrap_or_default().to_string_lossy();
        Options::of(&id, &words("cmdline"), &words("environ"))
    }

    /// Options go before variables.
    fn of(process: &str, arguments: &[Vec<u8>], environment: &[Vec<u8>]) -> Options {
        let value = |options: &[&str], variable: &str| {
            let given = values(arguments, options);
            let by_option = format!("{} of CRI-O's command line (process {process})", options.first().unwrap_or(&""));
            let by_variable = format!("{variable} of CRI-O's environment (process {process})");
            let set = || environment.iter().find_map(|word| word.strip_prefix(format!("{variable}=").as_bytes()));
            match given.is_empty() {
                false => Some((given, by_option)),
                true => set().filter(|value| !value.is_empty()).map(|value| (vec![value], by_variable)),
            }
        };
        let path = |options: &[&str], variable: &str, default: &str| {
            let last = value(options, variable).and_then(|(values, _)| values.last().map(|path| path_of(path)));
            last.unwrap_or_else(|| default.into())
        };
        let hooks_dir = value(&["--hooks-dir"], "CONTAINER_HOOKS_DIR").map(|(values, by)| {
            let directories = values.iter().flat_map(|value| value.split(|byte| *byte == b','));
            (directories.map(|directory| path_of(directory.trim_ascii())).collect(), by)
        });
        Options {
            file: path(&["--config", "-c"], "CONTAINER_CONFIG", FILE),
            drop_ins: path(&["--config-dir", "-d"], "CONTAINER_CONFIG_DIR", DROP_INS),
            hooks_dir,
        }
    }

    /// A later file overrides an earlier one, and the command line all of them.
    fn in_effect(&self, host: &Host) -> Result<HooksDir, EngineError> {
        if let Some((directories, by)) = &self.hooks_dir {
            return Ok(HooksDir { directories: directories.clone(), named_by: Some(by.clone()) });
        }
        let mut found = HooksDir::default();
        let drop_ins = host.files_below(&host.path(&self.drop_ins))?;
        for path in [host.path(&self.file)].into_iter().chain(drop_ins) {
            if let Some(directories) = named(host, &path)? {
                found = HooksDir { directories, named_by: Some(path.display().to_string()) };
            }
        }
        Ok(found)
    }
}

/// What a file says of hook directories, if it says anything.
fn named(host: &Host, path: &Path) -> Result<Option<Vec<PathBuf>>, EngineError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Configuration {
        crio: Crio,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Crio {
        runtime: Runtime,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Runtime {
        hooks_dir: Option<Vec<PathBuf>>,
    }
    let Some(text) = host.read(path)? else { return Ok(None) };
    let format = |error: toml::de::Error| EngineError::Format { path: path.into(), reason: error.message().to_owned() };
    Ok(toml::from_str::<Configuration>(&text).map_err(format)?.crio.runtime.hooks_dir)
}

fn is_daemon(process: &Path) -> bool {
    std::fs::read(process.join("comm")).is_ok_and(|name| name.trim_ascii() == b"crio")
}

/// The values of an option: `--hooks-dir=a`, `--hooks-dir a`, and with one dash.
fn values<'a>(arguments: &'a [Vec<u8>], options: &[&str]) -> Vec<&'a [u8]> {
    let names: Vec<&[u8]> = options.iter().map(|option| option.trim_start_matches('-').as_bytes()).collect();
    let mut values = Vec::new();
    let mut words = arguments.iter().map(Vec::as_slice);
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix(b"--").or_else(|| word.strip_prefix(b"-")) else { continue };
        let equals = option.iter().position(|byte| *byte == b'=');
        let (name, value) = match equals {
            Some(at) => (option.get(..at), option.get(at + 1..)),
            None => (Some(option), None),
        };
        if name.is_some_and(|name| names.contains(&name)) {
            values.extend(value.or_else(|| words.next()));
        }
    }
    values
}

/// What the kernel separates by NUL.
fn split(words: &[u8]) -> Vec<Vec<u8>> {
    words.split(|byte| *byte == 0).filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect()
}

fn path_of(bytes: &[u8]) -> PathBuf {
    OsStr::from_bytes(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::Root;

    const OURS: &str = "/usr/share/containers/oci/hooks.d/90-oci-secrets.json";

    fn hook(root: &Root) -> Hook {
        Hook { path: root.program("oci-secrets-hook").into(), settings: None }
    }

    /// Installs, and returns the directories that are in effect then.
    fn installed(root: &Root) -> Result<Vec<PathBuf>, EngineError> {
        for change in install(&root.host, &hook(root))? {
            change.apply().unwrap();
        }
        let calls = calls(&root.host)?;
        assert_eq!(calls, Calls { by: vec![root.host.path(OURS)], caution: None });
        Ok(Options::of_daemon(&root.host)?.in_effect(&root.host)?.directories)
    }

    fn daemon(root: &Root, command: &str, environment: &str) {
        root.write("/proc/1/comm", "systemd\n");
        root.write("/proc/4242/comm", "crio\n");
        root.write("/proc/4242/cmdline", &command.replace(' ', "\0"));
        root.write("/proc/4242/environ", &environment.replace(' ', "\0"));
    }

    #[test]
    fn calls_what_was_installed_until_another_file_names_another_directory() {
        let root = Root::new();
        assert_eq!(calls(&root.host).unwrap(), Calls::default());
        assert_eq!(installed(&root).unwrap(), [PathBuf::from(hooks_d::DIRECTORY)]);
        // CRI-O reads every file, whatever its name, directory by directory.
        for other in ["99.conf", "99-site", "99-sub/x.conf", "99-sub/deeper/x"] {
            let path = format!("/etc/crio/crio.conf.d/{other}");
            root.write(&path, "[crio.runtime]\nhooks_dir = ['/elsewhere']\n");
            let found = calls(&root.host).unwrap();
            assert_eq!(found.by, Vec::<PathBuf>::new());
            let reason = found.caution.unwrap();
            assert!(reason.contains(root.host.path(&path).to_str().unwrap()) && reason.contains(OURS), "{reason}");
            std::fs::remove_file(root.host.path(&path)).unwrap();
        }
        root.write("/etc/crio/crio.conf.d/README", "not TOML");
        assert!(matches!(calls(&root.host), Err(EngineError::Format { .. })));
    }

    #[test]
    fn keeps_each_directory_that_is_in_effect() {
        for (other, drop_in) in [
            ("crio.conf", "90-oci-secrets.conf"),
            ("crio.conf.d/10-site.conf", "90-oci-secrets.conf"),
            ("crio.conf.d/90-site/x", "99-oci-secrets.conf"),
            ("crio.conf.d/99-site", "zz-oci-secrets.conf"),
        ] {
            let root = Root::new();
            root.write("/etc/crio/crio.conf.d/05-other", "[crio.runtime]\nhooks_dir = ['/overridden']\n");
            let is_last = other.contains(".d/");
            if !is_last {
                std::fs::remove_file(root.host.path("/etc/crio/crio.conf.d/05-other")).unwrap();
            }
            root.write(&format!("/etc/crio/{other}"), "[crio.runtime]\nhooks_dir = ['/a', '/b']\n");
            for _ in 0..2 {
                let expected = ["/a", "/b", hooks_d::DIRECTORY].map(PathBuf::from);
                assert_eq!(installed(&root).unwrap(), expected, "{other}");
            }
            assert!(root.host.path(format!("/etc/crio/crio.conf.d/{drop_in}")).exists(), "{other}");
            // The list changes: so does ours.
            root.write(&format!("/etc/crio/{other}"), "[crio.runtime]\nhooks_dir = ['/c']\n");
            assert_eq!(installed(&root).unwrap(), ["/c", hooks_d::DIRECTORY].map(PathBuf::from));

            let before = uninstall(&root.host).unwrap();
            before.iter().for_each(|change| assert!(change.apply().is_ok()));
            assert_eq!(before.len(), 3);
            assert_eq!(calls(&root.host).unwrap(), Calls::default());
            let options = Options::of_daemon(&root.host).unwrap();
            assert_eq!(options.in_effect(&root.host).unwrap().directories, [PathBuf::from("/c")]);
            assert!(uninstall(&root.host).unwrap().is_empty());
        }
    }

    #[test]
    fn writes_no_drop_in_where_none_is_needed() {
        let root = Root::new();
        let default = format!("[crio.runtime]\nhooks_dir = ['/a', '{}']\n", hooks_d::DIRECTORY);
        root.write("/etc/crio/crio.conf.d/99-site", &default);
        assert_eq!(installed(&root).unwrap(), ["/a", hooks_d::DIRECTORY].map(PathBuf::from));
        assert_eq!(std::fs::read_dir(root.host.path(DROP_INS)).unwrap().count(), 1);
    }

    #[test]
    fn refuses_where_no_file_has_an_effect() {
        let root = Root::new();
        let refused = |by: &str| match install(&root.host, &hook(&root)) {
            Err(EngineError::Overridden { by: found, .. }) => assert!(found.contains(by), "{found}"),
            other => panic!("{other:?}"),
        };
        root.write("/etc/crio/crio.conf.d/zzz", "[crio.runtime]\nhooks_dir = ['/a']\n");
        refused("/zzz");
        std::fs::remove_file(root.host.path("/etc/crio/crio.conf.d/zzz")).unwrap();
        for (command, environment, by) in [
            ("/usr/bin/crio --log-level info --hooks-dir /a", "", "--hooks-dir of CRI-O's command line (process 4242)"),
            ("crio -hooks-dir=/a,/b", "CONTAINER_HOOKS_DIR=/c", "--hooks-dir"),
            ("crio", "PATH=/bin CONTAINER_HOOKS_DIR=/c", "CONTAINER_HOOKS_DIR of CRI-O's environment"),
        ] {
            daemon(&root, command, environment);
            refused(by);
        }
        let ours = hooks_d::files(&root.host.path(hooks_d::DIRECTORY), &hook(&root));
        ours.iter().for_each(|file| assert!(file.apply().is_ok()));
        let reason = calls(&root.host).unwrap().caution.unwrap();
        assert!(reason.contains("CONTAINER_HOOKS_DIR"), "{reason}");
    }

    #[test]
    fn a_command_line_may_name_our_directory_and_other_files() {
        let root = Root::new();
        daemon(&root, &format!("crio --hooks-dir /a --hooks-dir {}", hooks_d::DIRECTORY), "");
        assert_eq!(installed(&root).unwrap(), ["/a", hooks_d::DIRECTORY].map(PathBuf::from));
        daemon(&root, "crio -c /opt/crio.conf --config-dir=/opt/conf.d", "CONTAINER_CONFIG_DIR=/ignored");
        root.write("/opt/crio.conf", "crio.runtime.hooks_dir = ['/a']");
        root.write("/etc/crio/crio.conf", "[");
        assert_eq!(installed(&root).unwrap(), ["/a", hooks_d::DIRECTORY].map(PathBuf::from));
        assert!(root.host.path("/opt/conf.d/90-oci-secrets.conf").exists());
    }
}
