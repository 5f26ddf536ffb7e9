//! Which directories of hook files an engine reads, and a drop-in file that adds one: `hooks_dir` of CRI-O and of podman.

use std::path::PathBuf;

use super::{Calls, Change, EngineError, Hook, Host, hooks_d};

/// What a drop-in file of ours may be called. The first that overrides the files which are there is taken.
const DROP_IN_NAMES: [&str; 3] = ["90-oci-secrets.conf", "99-oci-secrets.conf", "zz-oci-secrets.conf"];

/// What every drop-in file of ours begins with.
const HEADING: &str = "# Written by `oci-secrets install`, removed by `oci-secrets uninstall`: the directories that were in effect, and one more.\n";

/// The directories of hook files that are in effect.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HooksDir {
    pub(super) directories: Vec<PathBuf>,
    /// The file, option or variable that names them; none for the default.
    pub(super) named_by: Option<String>,
}

impl Default for HooksDir {
    fn default() -> HooksDir {
        HooksDir { directories: vec![hooks_d::DIRECTORY.into()], named_by: None }
    }
}

/// Returns what is in effect on a host.
type InEffect<'a> = Box<dyn Fn(&Host) -> Result<HooksDir, EngineError> + 'a>;

/// How an engine is configured.
pub(super) struct Configured<'a> {
    pub(super) in_effect: InEffect<'a>,
    /// Where the hook files of ours are.
    pub(super) directory: PathBuf,
    /// Where drop-in files are.
    pub(super) drop_ins: PathBuf,
    /// The table that has `hooks_dir`.
    pub(super) table: &'static str,
}

impl Configured<'_> {
    /// The files that make the engine call the hook.
    ///
    /// Every directory that is in effect stays so: a drop-in is written only if ours is not among them, and repeats the others.
    pub(super) fn install(&self, host: &Host, hook: &Hook) -> Result<Vec<Change>, EngineError> {
        let written = self.written(host)?;
        let others = host.without(&written);
        let HooksDir { directories, named_by } = (self.in_effect)(&others)?;
        let drop_in = match directories.contains(&self.directory) {
            true => None,
            false => Some(self.drop_in(&others, directories, named_by, &written)?),
        };
        // Those of an earlier list.
        let is_stale = |path: &PathBuf| drop_in.as_ref().is_none_or(|drop_in| drop_in.path != *path);
        let stale: Vec<PathBuf> = written.iter().filter(|path| is_stale(path)).cloned().collect();
        let files = hooks_d::files(&host.path(&self.directory), hook).into_iter().chain(drop_in);
        Ok(files.chain(stale.into_iter().map(|path| Change::merged(path, None))).collect())
    }

    /// The removal of what [`Configured::install`] wrote: the drop-in first, as the engine then reads the other files no more.
    pub(super) fn uninstall(&self, host: &Host) -> Result<Vec<Change>, EngineError> {
        let drop_ins = self.written(host)?.into_iter().map(|path| Change::merged(path, None));
        Ok(drop_ins.chain(hooks_d::removals(host, &host.path(&self.directory))?).collect())
    }

    /// The files by which the engine calls the hook.
    pub(super) fn calls(&self, host: &Host) -> Result<Calls, EngineError> {
        let HooksDir { directories, named_by } = (self.in_effect)(host)?;
        let directories: Vec<PathBuf> = directories.iter().map(|directory| host.path(directory)).collect();
        let calls = hooks_d::calls(host, &directories)?;
        let (true, Some(by)) = (calls.by.is_empty(), named_by) else { return Ok(calls) };
        // A file of ours that is not read.
        let unread = hooks_d::calls(host, &[host.path(&self.directory)])?;
        let reason =
            |path: &PathBuf| format!("it does not read {}, as {by} names other hook directories", path.display());
        Ok(Calls { by: Vec::new(), caution: unread.by.first().map(reason) })
    }

    /// A drop-in file that adds our directory to these, which are in effect without it.
    fn drop_in(
        &self,
        host: &Host,
        mut directories: Vec<PathBuf>,
        named_by: Option<String>,
        written: &[PathBuf],
    ) -> Result<Change, EngineError> {
        directories.push(self.directory.clone());
        // An array of strings is the same in TOML.
        let list = serde_json::json!(directories.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>());
        let content = format!("{HEADING}[{}]\nhooks_dir = {list}\n", self.table);
        for path in DROP_IN_NAMES.map(|name| host.path(&self.drop_ins).join(name)) {
            let is_merged = written.contains(&path);
            let drop_in = Change { is_merged, ..Change::new(path, content.clone()) };
            let found = (self.in_effect)(&host.with(std::slice::from_ref(&drop_in)))?;
            if directories.iter().all(|directory| found.directories.contains(directory)) {
                return Ok(drop_in);
            }
        }
        Err(EngineError::Overridden { directory: self.directory.clone(), by: named_by.unwrap_or_default() })
    }

    /// The drop-in files that were written before.
    fn written(&self, host: &Host) -> Result<Vec<PathBuf>, EngineError> {
        let mut written = Vec::new();
        for path in DROP_IN_NAMES.map(|name| host.path(&self.drop_ins).join(name)) {
            if host.read(&path)?.is_some_and(|text| text.starts_with(HEADING)) {
                written.push(path);
            }
        }
        Ok(written)
    }
}
