//! What containerd's settings come to: the main file, and the files that it imports.
//!
//! See [containerd-config.toml(5)](https://github.com/containerd/containerd/blob/main/docs/man/containerd-config.toml.5.md).

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use regex::Regex;
use toml::{Table, Value};

use super::super::{EngineError, Host};

/// The base spec of ours.
pub(super) const BASE_SPEC: &str = "/etc/containerd/oci-secrets.json";

/// The main file.
pub(super) const PATH: &str = "/etc/containerd/config.toml";

/// The CRI plugin's names, in version 3 of the format, in version 2 and in version 1.
const PLUGINS: [&str; 3] = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri"];

/// The major version from which imported files are merged key by key. Before, they replace whole plugins.
const MERGED_SINCE: u32 = 2;

/// The settings of the CRI plugin that are in effect.
pub(super) struct Effective {
    /// Its table `containerd`.
    pub(super) cri: Table,
    /// The last file that has a part of it; the main file if none has.
    pub(super) named_by: PathBuf,
    /// The plugin's name in the main file, and that file's version of the format.
    pub(super) plugin: &'static str,
    pub(super) version: i64,
    /// The patterns of files that the main file imports.
    pub(super) imports: Vec<PathBuf>,
}

/// Reads the files as containerd does.
pub(super) fn read(host: &Host) -> Result<Effective, EngineError> {
    let main = host.path(PATH);
    let is_merged = is_merged(host);
    let mut found =
        Effective { cri: Table::new(), named_by: main.clone(), plugin: "", version: 1, imports: Vec::new() };
    let (mut pending, mut loaded) = (VecDeque::from([main.clone()]), BTreeSet::new());
    while let Some(path) = pending.pop_front() {
        if !loaded.insert(path.clone()) {
            continue;
        }
        let Some(text) = host.read(&path)? else {
            if path == main {
                return Ok(Effective { plugin: PLUGINS[1], version: 2, ..found });
            }
            return Err(EngineError::Format { path, reason: "it is imported, and missing".to_owned() });
        };
        let format =
            |error: toml::de::Error| EngineError::Format { path: path.clone(), reason: error.message().to_owned() };
        let mut settings: Table = toml::from_str(&text).map_err(format)?;
        let imports: Vec<PathBuf> = imports(&settings, &path).collect();
        let plugin = take_plugin(&mut settings);
        if path == main {
            found.version = settings.get("version").and_then(Value::as_integer).unwrap_or(1);
            let usual = match found.version {
                3.. => PLUGINS[0],
                2 => PLUGINS[1],
                _ => PLUGINS[2],
            };
            found.plugin = plugin.as_ref().map_or(usual, |(name, _)| *name);
            found.imports.clone_from(&imports);
        }
        if let Some((_, cri)) = plugin {
            found.named_by.clone_from(&path);
            if is_merged { merge(&mut found.cri, cri) } else { found.cri = cri }
        }
        for pattern in imports {
            pending.extend(matches(host, &pattern)?);
        }
    }
    Ok(found)
}

/// Whether this containerd merges imported files.
pub(super) fn is_merged(host: &Host) -> bool {
    host.major("containerd").is_some_and(|version| version >= MERGED_SINCE)
}

/// What a file imports, relative to where it is.
fn imports(settings: &Table, file: &Path) -> impl Iterator<Item = PathBuf> {
    let patterns = settings.get("imports").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    patterns.map(|pattern| file.parent().unwrap_or(Path::new("/")).join(pattern))
}

/// The files that a pattern names, in the order of their names.
fn matches(host: &Host, pattern: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let pattern = host.path(pattern);
    let (Some(directory), Some(name)) = (pattern.parent(), pattern.file_name()) else { return Ok(Vec::new()) };
    match glob(&name.to_string_lossy()) {
        Some(expression) if name.to_string_lossy().contains('*') => {
            let is_match =
                |path: &PathBuf| path.file_name().is_some_and(|name| expression.is_match(&name.to_string_lossy()));
            Ok(host.files(directory)?.into_iter().filter(is_match).collect())
        }
        _ => Ok(vec![pattern.clone()]),
    }
}

/// Whether a pattern has this path among its matches.
pub(super) fn is_match(pattern: &Path, path: &Path) -> bool {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    pattern.parent() == path.parent() && glob(&name(pattern)).is_some_and(|glob| glob.is_match(&name(path)))
}

/// Go's `path.Match`, as far as anyone uses it here: `*` and `?` stand for anything but a slash.
pub(super) fn glob(glob: &str) -> Option<Regex> {
    Regex::new(&format!("^{}$", regex::escape(glob).replace(r"\*", "[^/]*").replace(r"\?", "[^/]"))).ok()
}

/// The CRI plugin's table `containerd`, if a file has the plugin.
fn take_plugin(settings: &mut Table) -> Option<(&'static str, Table)> {
    let plugins = settings.get_mut("plugins")?.as_table_mut()?;
    let name = PLUGINS.into_iter().find(|name| plugins.contains_key(*name))?;
    let cri = plugins.get_mut(name)?.get_mut("containerd").and_then(Value::as_table_mut).map(std::mem::take);
    Some((name, cri.unwrap_or_default()))
}

/// Later values override earlier ones, if they are not empty; lists are joined.
fn merge(own: &mut Table, later: Table) {
    for (key, value) in later {
        match (own.get_mut(&key), value) {
            (Some(Value::Table(own)), Value::Table(later)) => merge(own, later),
            (Some(Value::Array(own)), Value::Array(later)) => {
                let new: Vec<Value> = later.into_iter().filter(|item| !own.contains(item)).collect();
                own.extend(new);
            }
            (Some(_), Value::String(empty)) if empty.is_empty() => {}
            (_, value) => drop(own.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::Root;

    fn host(root: &Root, containerd: u32) -> Host {
        Host { versions: [("containerd", containerd)].into(), ..root.host.clone() }
    }

    fn cri(table: &str) -> String {
        format!("[plugins.'io.containerd.grpc.v1.cri'.containerd]\n{table}\n")
    }

    #[test]
    fn containerd_2_merges_what_it_imports_and_containerd_1_replaces_plugins() {
        let root = Root::new();
        root.write(
            PATH,
            &format!(
                "version = 2\nimports = ['conf.d/*.toml', '/opt/c.toml']\n{}",
                cri("a = 'main'\nb = ['1']\nc = 'main'")
            ),
        );
        root.write("/etc/containerd/conf.d/2.toml", &cri("a = 'two'\nc = ''"));
        root.write("/etc/containerd/conf.d/1.toml", &cri("a = 'one'\nb = ['1', '2']"));
        root.write("/etc/containerd/conf.d/3.conf", "not TOML");
        root.write("/opt/c.toml", "imports = ['/etc/containerd/config.toml']\n");
        let found = read(&host(&root, 2)).unwrap();
        assert_eq!(found.cri, toml::from_str("a = 'two'\nb = ['1', '2']\nc = 'main'").unwrap());
        assert_eq!(found.named_by, root.host.path("/etc/containerd/conf.d/2.toml"));
        let replaced: Table = toml::from_str("a = 'two'\nc = ''").unwrap();
        assert_eq!(read(&host(&root, 1)).unwrap().cri, replaced);
        std::fs::remove_file(root.host.path("/opt/c.toml")).unwrap();
        assert!(matches!(read(&host(&root, 2)), Err(EngineError::Format { .. })));
    }

    #[test]
    fn the_plugin_has_a_name_in_each_version_of_the_format() {
        let root = Root::new();
        for (version, plugin) in [(1, "cri"), (2, "io.containerd.grpc.v1.cri"), (3, "io.containerd.cri.v1.runtime")] {
            let head = if version == 1 { String::new() } else { format!("version = {version}\n") };
            root.write(PATH, &head);
            assert_eq!(read(&root.host).unwrap().plugin, plugin);
            root.write(PATH, &format!("{head}[plugins.'{plugin}'.containerd]\na = 1\n"));
            let Effective { cri, plugin: found, version: stated, .. } = read(&root.host).unwrap();
            assert_eq!((cri["a"].as_integer(), found, stated), (Some(1), plugin, version));
        }
    }
}
