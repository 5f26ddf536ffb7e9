//! A handler that calls the hook, in a file that keeps every other byte.

use std::path::Path;

use toml::Table as Settings;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value, value};

use super::super::EngineError;
use super::effective::BASE_SPEC;

/// What the handler is called.
pub(super) const HANDLER: &str = "oci-secrets";

/// The handler that containerd takes by default.
pub(super) const DEFAULT: &str = "runc";

/// Annotations that a pod passes on to its containers.
const POD_ANNOTATIONS: [&str; 3] = ["run.secrets/*", "*.run.secrets/*", "run.secrets.*"];

/// What follows the former value of a key, in the comment behind its new one.
const REPLACED: &str = " before `oci-secrets install`";

/// What to do about another default runtime, or another handler of our name.
pub(super) const REMEDY: &str =
    "make runc the default runtime, or give yours a base_runtime_spec with the hook and the pod_annotations by hand";

const HEADING: &str = "\n# Written by `oci-secrets install`.\n";

const RUNTIME_TYPE: &str = "io.containerd.runc.v2";

/// Makes the handler the default one; `options` are those of the runtime that it takes the place of, as both need the same driver
/// of cgroups.
pub(super) fn add(text: &str, path: &Path, plugin: &str, options: &Settings) -> Result<String, EngineError> {
    let taken = |key: &str| EngineError::Taken { path: path.to_owned(), key: key.to_owned(), remedy: REMEDY };
    let mut document = parse(text, path)?;
    let plugins = table(document.as_table_mut(), "plugins").ok_or_else(|| taken("plugins"))?;
    let cri = table(plugins, plugin).ok_or_else(|| taken(plugin))?;
    table(cri, "containerd").ok_or_else(|| taken("containerd"))?;
    // It gets a heading, which goes again with the handler.
    if let Some(containerd) = cri.get_mut("containerd").and_then(Item::as_table_mut).filter(|table| table.is_implicit())
    {
        containerd.decor_mut().set_prefix(HEADING);
    }
    let containerd = table(cri, "containerd").ok_or_else(|| taken("containerd"))?;
    match containerd.get("default_runtime_name").map(|name| name.as_str().unwrap_or("?")) {
        Some(HANDLER) => {}
        None | Some("") => drop(containerd.insert("default_runtime_name", value(HANDLER))),
        Some(DEFAULT) => {
            if let Some(Item::Value(name)) = containerd.get_mut("default_runtime_name") {
                let (before, after) = (raw(name.decor().prefix()), raw(name.decor().suffix()));
                let former = name.clone().decorated("", "");
                *name = Value::from(HANDLER).decorated(before, format!("{after} # {former}{REPLACED}"));
            }
        }
        Some(_) => return Err(taken("default_runtime_name")),
    }
    let runtimes = table(containerd, "runtimes").ok_or_else(|| taken("runtimes"))?;
    match runtimes.get(HANDLER) {
        None => drop(runtimes.insert(HANDLER, Item::Table(handler(options)))),
        Some(found) if is_ours(found) => {}
        Some(_) => return Err(taken(&format!("runtimes.{HANDLER}"))),
    }
    Ok(document.to_string())
}

/// Takes out what [`add`] added; `None` if it added nothing.
pub(super) fn remove(text: &str, path: &Path, plugin: &str) -> Result<Option<String>, EngineError> {
    let mut document = parse(text, path)?;
    let at = ["plugins", plugin, "containerd", "runtimes"];
    let Some(runtimes) = lookup(document.as_table_mut(), &at) else { return Ok(None) };
    if !runtimes.get(HANDLER).is_some_and(is_ours) {
        return Ok(None);
    }
    runtimes.remove(HANDLER);
    if let Some(containerd) = lookup(document.as_table_mut(), &at[..3])
        && let Some(Item::Value(name)) =
            containerd.get_mut("default_runtime_name").filter(|name| name.as_str() == Some(HANDLER))
    {
        let (before, after) = (raw(name.decor().prefix()), raw(name.decor().suffix()));
        let former = after.strip_suffix(REPLACED).and_then(|comment| comment.rsplit_once(" # "));
        match former.and_then(|(after, former)| Some((after, former.parse::<Value>().ok()?))) {
            Some((after, former)) => *name = former.decorated(before, after),
            None => drop(containerd.remove("default_runtime_name")),
        }
    }
    let cri = lookup(document.as_table_mut(), &at[..2]);
    let containerd = cri.and_then(|cri| cri.get_mut("containerd")).and_then(Item::as_table_mut);
    if let Some(containerd) = containerd.filter(|table| raw(table.decor().prefix()) == HEADING) {
        containerd.set_implicit(true);
    }
    // Tables that were made for the handler have nothing else in them.
    for depth in (1..=at.len()).rev() {
        let (parent, [name, ..]) = at.split_at(depth - 1) else { continue };
        if let Some(parent) = lookup(document.as_table_mut(), parent)
            && parent.get(name).and_then(Item::as_table_like).is_some_and(TableLike::is_empty)
        {
            parent.remove(name);
        }
    }
    Ok(Some(document.to_string()))
}

fn parse(text: &str, path: &Path) -> Result<DocumentMut, EngineError> {
    let format =
        |error: toml_edit::TomlError| EngineError::Format { path: path.to_owned(), reason: error.message().to_owned() };
    text.parse().map_err(format)
}

/// A table in another one, made if there is none: without a heading as long as it has only tables in it.
fn table<'a>(parent: &'a mut dyn TableLike, name: &str) -> Option<&'a mut dyn TableLike> {
    let implicit = || {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    };
    parent.entry(name).or_insert_with(implicit).as_table_like_mut()
}

fn lookup<'a>(mut table: &'a mut dyn TableLike, names: &[&str]) -> Option<&'a mut dyn TableLike> {
    for name in names {
        table = table.get_mut(name)?.as_table_like_mut()?;
    }
    Some(table)
}

fn handler(options: &Settings) -> Table {
    let mut handler = Table::new();
    handler.decor_mut().set_prefix(HEADING);
    handler.insert("runtime_type", value(RUNTIME_TYPE));
    handler.insert("base_runtime_spec", value(BASE_SPEC));
    handler.insert("pod_annotations", value(POD_ANNOTATIONS.into_iter().collect::<Array>()));
    if !options.is_empty() {
        handler.insert("options", value(inline(options)));
    }
    handler
}

fn is_ours(handler: &Item) -> bool {
    handler.get("base_runtime_spec").and_then(Item::as_str) == Some(BASE_SPEC)
}

fn inline(table: &Settings) -> InlineTable {
    table.iter().filter_map(|(key, value)| Some((key.clone(), edited(value)?))).collect()
}

/// A value as it is written; there are no dates among them.
fn edited(value: &toml::Value) -> Option<Value> {
    Some(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(is_set) => (*is_set).into(),
        toml::Value::Array(items) => items.iter().filter_map(edited).collect::<Array>().into(),
        toml::Value::Table(table) => inline(table).into(),
        toml::Value::Datetime(_) => return None,
    })
}

fn raw(text: Option<&toml_edit::RawString>) -> String {
    text.and_then(|text| text.as_str()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLUGIN: &str = "io.containerd.grpc.v1.cri";

    /// As Debian installs it.
    const DEBIAN: &str = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\"\n      conf_dir = \"/etc/cni/net.d\"\n  [plugins.\"io.containerd.internal.v1.opt\"]\n    path = \"/var/lib/containerd/opt\"\n";

    /// Part of what `containerd config default` prints.
    const DEFAULTS: &str = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  default_runtime_name = \"runc\" # as it was\n  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes]\n    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n      runtime_type = \"io.containerd.runc.v2\"\n      [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n        SystemdCgroup = true\n";

    fn path() -> &'static Path {
        Path::new("/etc/containerd/config.toml")
    }

    #[test]
    fn what_is_added_can_be_removed_to_the_byte() {
        let options = toml::from_str("SystemdCgroup = true\nRoot = ''\nnested = { list = [1, 2.5] }").unwrap();
        for text in [
            DEBIAN,
            DEFAULTS,
            &DEFAULTS.replace("\"runc\" # as it was", "'runc'"),
            "",
            "# nothing\n",
            "plugins.x = 1\n",
        ] {
            let added = add(text, path(), PLUGIN, &options).unwrap();
            assert_eq!(add(&added, path(), PLUGIN, &options).unwrap(), added);
            let settings: Settings = toml::from_str(&added).unwrap();
            let containerd = &settings["plugins"][PLUGIN]["containerd"];
            assert_eq!(containerd["default_runtime_name"].as_str(), Some(HANDLER), "{added}");
            let handler = &containerd["runtimes"][HANDLER];
            assert_eq!(handler["base_runtime_spec"].as_str(), Some(BASE_SPEC));
            assert_eq!(handler["options"], toml::Value::Table(options.clone()));
            assert_eq!(remove(&added, path(), PLUGIN).unwrap().as_deref(), Some(text), "{added}");
        }
        assert_eq!(remove(DEFAULTS, path(), PLUGIN).unwrap(), None);
    }

    #[test]
    fn decisions_of_others_stand() {
        for text in [
            "plugins.'io.containerd.grpc.v1.cri'.containerd.default_runtime_name = 'nvidia'",
            "plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.oci-secrets.runtime_type = 'x'",
            "plugins.'io.containerd.grpc.v1.cri' = 1",
            "plugins = []",
        ] {
            let refused = add(text, path(), PLUGIN, &Settings::new());
            assert!(matches!(refused, Err(EngineError::Taken { .. })), "{text}: {refused:?}");
            assert_eq!(remove(text, path(), PLUGIN).unwrap(), None);
        }
        assert!(matches!(add("[", path(), PLUGIN, &Settings::new()), Err(EngineError::Format { .. })));
    }
}
