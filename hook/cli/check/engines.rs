//! Whether engines call the hook, and what makes those do so that do not.

use std::path::{Path, PathBuf};

use crate::cli::finding::Finding;
use crate::cli::install;
use crate::engine::{Calls, Engine, HOOK_PATH, Host, version};
use crate::fault::Class;
use crate::report;

/// The first version of each program that the hook is known to work with, and the engine whose program it is.
const PROGRAMS: [(&str, [u32; 2], Option<Engine>); 7] = [
    ("runc", [1, 1], None),
    ("crun", [1, 8], None),
    ("youki", [0, 6], None),
    ("podman", [4, 3], Some(Engine::Podman)),
    ("crio", [1, 26], Some(Engine::Crio)),
    ("containerd", [1, 6], Some(Engine::Containerd)),
    ("dockerd", [20, 10], Some(Engine::Docker)),
];

/// The engines of pods on the PATH.
pub(super) fn of_pods() -> Vec<Engine> {
    let is_for_pods = |engine: &Engine| matches!(engine, Engine::Crio | Engine::Containerd);
    let engines = PROGRAMS.iter().filter_map(|(name, _, engine)| Some((name, engine.filter(is_for_pods)?)));
    engines.filter(|(name, _)| version(name).is_some()).map(|(_, engine)| engine).collect()
}

/// The engines of a host.
pub(super) struct Engines<'a> {
    pub(super) host: &'a Host,
    /// The one that must call the hook, if it is not left to the host.
    pub(super) asked: Option<Engine>,
    /// The settings that the hook would have.
    pub(super) settings: &'a Path,
}

impl Engines<'_> {
    /// One line for each runtime and engine on the PATH, or for the engine that is asked for.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let is_asked = |engine: Option<Engine>| engine.is_none() || self.asked.is_none() || engine == self.asked;
        let programs = PROGRAMS.iter().filter(|(_, _, engine)| is_asked(*engine));
        let programs = programs.filter_map(|(name, minimum, engine)| self.program(name, *minimum, *engine));
        programs.chain(self.device()).collect()
    }

    /// Whether the caller's own engine calls the hook. It runs in a user namespace, where the hook refuses files of the host's root.
    pub(super) fn run_without_root(&self) -> bool {
        let calls = || Engine::Podman.calls(self.host).is_ok_and(|calls| !calls.by.is_empty());
        let is_checked = || match self.asked {
            None => version("podman").is_some() && calls(),
            Some(engine) => engine == Engine::Podman,
        };
        self.host.user.is_some() && is_checked()
    }

    /// Whether a runtime or engine on the PATH is new enough, and will call the hook.
    fn program(&self, name: &str, minimum: [u32; 2], engine: Option<Engine>) -> Option<Finding> {
        let Some(version) = version(name) else { return self.missing(name, engine) };
        let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let found = [numbers.next()?.ok()?, numbers.next()?.ok()?];
        if found < minimum {
            let [major, minor] = minimum;
            let advice = format!("the hook is not tested with versions before {major}.{minor}");
            return Some(Finding::warning(name, version, advice));
        }
        Some(match engine.map(|engine| (engine, engine.calls(self.host))) {
            None => Finding::ok(name, version),
            Some((_, Err(error))) => Finding::problem(name, &error),
            Some((engine, Ok(Calls { by, caution }))) if by.is_empty() => {
                self.not_called(name, format!("{version}: does not call the hook"), caution, engine)
            }
            Some((_, Ok(Calls { by, caution }))) => {
                let detail = format!("{version}: calls the hook, as {} says", list(&by));
                match caution {
                    None => Finding::ok(name, detail),
                    Some(caution) => Finding::warning(name, detail, caution),
                }
            }
        })
    }

    /// An engine that is asked for, and is not there.
    fn missing(&self, name: &str, engine: Option<Engine>) -> Option<Finding> {
        engine.filter(|_| engine == self.asked)?;
        let advice = "install it, or leave out --engine".to_owned();
        Some(Finding::problem_with(Class::Settings, name, "it is not on the PATH".to_owned(), advice))
    }

    /// The command that makes an engine call the hook, or why it would refuse.
    fn not_called(&self, name: &str, detail: String, reason: Option<String>, engine: Engine) -> Finding {
        // Files of an engine that is not the user's own belong to root.
        let sudo = if self.host.user.is_some() && engine != Engine::Podman { "sudo " } else { "" };
        let command = format!("{sudo}oci-secrets install --engine {} --write", engine.name());
        let hook = install::hook(Path::new(HOOK_PATH), self.settings);
        let refusal = install::changes(engine, self.host, &hook).err();
        let detail = match (&refusal, reason) {
            (_, Some(reason)) => format!("{detail}: {reason}"),
            (Some(refusal), None) if Path::new(HOOK_PATH).exists() => {
                format!("{detail}; `{command}` fails: {}", report::chain(&**refusal))
            }
            _ => detail,
        };
        let advice = match refusal {
            None => command,
            Some(_) if !Path::new(HOOK_PATH).exists() => format!("install {HOOK_PATH}, then: {command}"),
            Some(refusal) => refusal.hint().unwrap_or_else(|| format!("resolve this, then: {command}")),
        };
        match self.asked {
            Some(_) => Finding::problem_with(Class::Settings, name, detail, advice),
            None => Finding::warning(name, detail, advice),
        }
    }

    /// The device that calls the hook, if there is one or it is asked for.
    fn device(&self) -> Option<Finding> {
        let is_asked = self.asked == Some(Engine::Cdi);
        match Engine::Cdi.calls(self.host) {
            _ if !is_asked && self.asked.is_some() => None,
            Ok(calls) if calls.by.is_empty() => {
                is_asked.then(|| self.not_called("cdi", "no device calls the hook".to_owned(), None, Engine::Cdi))
            }
            Ok(calls) => Some(Finding::ok("cdi", format!("the device of {} calls the hook", list(&calls.by)))),
            Err(error) => Some(Finding::problem("cdi", &error)),
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
}
