//! `oci-secrets check`: whether this host can deliver secrets, tested as the hook would do it.

mod break_glass;
pub(super) mod broker;
mod engines;
mod grants;
mod held;
mod image;
mod keks;
mod nri;
mod outage;
mod proxy;
mod source;
mod static_token;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;

use super::error::CliError;
use super::finding::Finding;
use super::source::Choice;
use super::table::Table;
use super::{block_on, is_root, write_json, write_table};
use crate::audit::{Trail, default_file};
use crate::deliver::{Placeholders, Tmpfs, TmpfsOptions, require_openat2};
use crate::engine::{Engine, Host, version};
use crate::fault::AnyFault;
use crate::harden::is_initial_user_namespace;
use crate::retry::Deadline;
use crate::seal::kek::Keks;
use crate::seal::{SealedValue, is_sealed};
use crate::settings::{self, Noswap, Settings, TokenSource, trust_as_in_user_namespace};
use crate::source::connect::Connect;
use crate::source::connect::edit::StoredField;
use crate::syslog;
use broker::Deciding;
use engines::Engines;

/// Test whether this host can deliver secrets, and say what to do where it cannot.
///
/// Settings and the files that they name, the kernel, whether the engines call the hook, 1Password Connect and its token, each KEK, and
/// what break-glass needs and has left. Nothing is changed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// Check this engine alone, which must call the hook.
    #[arg(long)]
    engine: Option<Engine>,
    /// Also check every sealed value that the token can read, and list those under an old version of their key.
    #[arg(long)]
    values: bool,
    /// Print JSON: a list of objects with `verdict` (ok, warning, problem), `subject`, `detail` and `advice`.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    choice: Choice,
}

const EXAMPLE: &str = "\
Example: for a monitor; exit code 0 means that containers can have their secrets

  oci-secrets check --values --json";

/// What the hints of errors recommend, and what is running already.
const OWN_COMMAND: &str = "`oci-secrets check`";

/// How long before its end a token is worth a word.
const TOKEN_WARNING_DAYS: i64 = 14;

const DAY_SECONDS: i64 = 24 * 60 * 60;

pub(super) fn run(arguments: &Arguments, settings_path: &Path) -> Result<ExitCode, AnyFault> {
    let mut findings = vec![kernel()];
    let host = super::host();
    let engines = Engines { host: &host, asked: arguments.engine, settings: settings_path };
    findings.extend(engines.findings());
    if engines.run_without_root() {
        trust_as_in_user_namespace();
    }
    match Settings::load_in_job(settings_path).map(|settings| arguments.choice.over(settings)) {
        Err(error) => findings.push(Finding::problem("settings", &error)),
        Ok(settings) => {
            let whose = if is_root() { "" } else { ": yours to change, so its grants guard against mistakes alone" };
            findings.push(Finding::ok("settings", format!("{}{whose}", settings_path.display())));
            findings.extend(settings.token_of_a_job().map(job_only));
            findings.extend(proxy::finding());
            findings.extend(broker::findings(&settings));
            findings.extend(broker::updates(&settings));
            findings.extend(broker::withdrawn(&settings));
            let (deciding, finding) = Deciding::of(settings, &arguments.choice);
            findings.extend(finding);
            findings.extend(deciding.settings().into_iter().flat_map(|settings| decided(settings, arguments, &host)));
        }
    }
    findings.iter_mut().for_each(|finding| finding.retain_advice(|advice| !advice.contains(OWN_COMMAND)));
    if arguments.json {
        write_json(&findings)?
    } else {
        write_table(&table(&findings))?
    };
    let mut problems = findings.iter().filter_map(Finding::class);
    match problems.next() {
        None => Ok(ExitCode::SUCCESS),
        Some(class) => Err(CliError::Check { problems: 1 + problems.count(), checks: findings.len(), class }.into()),
    }
}

/// What is to be said of the settings that decide about a start.
fn decided(settings: &Settings, arguments: &Arguments, host: &Host) -> Vec<Finding> {
    let mut findings = Vec::from_iter(image::annotations(version("podman").as_deref(), settings));
    findings.extend(grants::findings(settings, &engines::of_pods(), host));
    findings.extend(source::choice(settings));
    findings.extend(source::op(settings));
    if let Some(connect) = &settings.connect {
        findings.extend(
            self::connect(settings, connect).unwrap_or_else(|error| vec![Finding::problem("connect", &*error)]),
        );
        if arguments.values {
            findings
                .extend(values(settings, connect).unwrap_or_else(|error| vec![Finding::problem("values", &*error)]));
        }
    }
    findings.push(audit(settings));
    findings.extend(break_glass::findings(settings));
    findings.extend(outage::finding(settings));
    findings.extend(settings.keks.iter().map(|listed| keks::finding(settings, listed.as_str())));
    findings
}

/// What only oci-secrets itself can use, in a job of a CI system.
fn job_only(table: &str) -> Finding {
    let detail = format!("the hook refuses them: [{table}] takes its token from the environment of a job");
    Finding::warning(
        "settings",
        detail,
        "give it settings of its own, which name a file: `oci-secrets token --help`".into(),
    )
}

/// Makes a tmpfs as a container's secrets have it, without giving it a path.
fn kernel() -> Finding {
    let linux = format!("Linux {}", rustix::system::uname().release().to_string_lossy());
    if !rustix::process::geteuid().is_root() {
        let advice = "`podman unshare oci-secrets check` tests mounts as podman makes them";
        if !has_swap() {
            return Finding::warning("kernel", format!("{linux}: mounts are not tested without root"), advice.into());
        }
        let detail = format!("{linux}: mounts are not tested; without root nothing can be kept out of swap");
        return Finding::warning("kernel", detail, format!("turn swap off or encrypt it; {advice}"));
    }
    let options = TmpfsOptions { files: 1, bytes: 1, label: None, root: None, noswap: Noswap::Prefer };
    if let Err(error) = require_openat2() {
        return Finding::problem("kernel", &error);
    }
    match Tmpfs::create(&options, Placeholders::default()).and_then(|tmpfs| Ok((tmpfs.noswap(), tmpfs.freeze()?))) {
        Ok((true, _)) => Finding::ok("kernel", format!("{linux}: a read-only tmpfs without swap can be made")),
        Ok((false, _)) if !has_swap() => {
            Finding::ok("kernel", format!("{linux}: a read-only tmpfs can be made; this host has no swap"))
        }
        Ok((false, _)) => {
            let detail = format!("{linux}: a read-only tmpfs can be made, but not kept out of swap");
            let advice = match is_initial_user_namespace() {
                true => "Linux 6.4 has `noswap`; before it, turn swap off or encrypt it",
                false => "without root there is neither `noswap` nor locked memory: turn swap off or encrypt it",
            };
            Finding::warning("kernel", detail, advice.into())
        }
        Err(error) => Finding::problem("kernel", &error),
    }
}

/// Whether this host has swap space, according to /proc/swaps.
fn has_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").map_or(true, |swaps| lists_swap(&swaps))
}

/// Whether the text of /proc/swaps, whose first line is a heading, lists any.
fn lists_swap(swaps: &str) -> bool {
    swaps.lines().count() > 1
}

/// Whether Connect answers and takes the token, and what the token can see.
fn connect(settings: &Settings, connect: &settings::Connect) -> Result<Vec<Finding>, AnyFault> {
    let client = Connect::open(connect)?;
    let (vaults, expires) = block_on(settings, async |deadline: Deadline| {
        let vaults = client.vaults(deadline).await?;
        Ok((vaults, client.token(deadline).await?.expires()))
    })?;
    let mut names: Vec<&str> = vaults.iter().map(|vault| vault.name.as_str()).collect();
    names.sort_unstable();
    let mut detail = format!("{} takes the token", client.server());
    if names.is_empty() {
        let advice = "the token sees no vault: `op connect token create --vault`";
        return Ok(vec![Finding::warning("connect", detail, advice.into())]);
    }
    let unused = source::unused_vaults(settings, &vaults);
    let conditions = static_token::conditions(settings, &client);
    let _ = write!(detail, ", which sees {}", names.join(", "));
    let with_unused = |finding| Ok([finding].into_iter().chain(unused).chain(conditions).collect());
    let Some(expiry) = expires else { return with_unused(Finding::ok("connect", detail)) };
    let now = Timestamp::now();
    let days = (expiry.as_second() - now.as_second()) / DAY_SECONDS;
    let _ = write!(detail, " until {}", end(expiry, now));
    if days < TOKEN_WARNING_DAYS && matches!(connect.token, TokenSource::Static(_)) {
        let advice = format!("the token expires in {days} days: make a new one");
        return with_unused(Finding::warning("connect", detail, advice));
    }
    with_unused(Finding::ok("connect", detail))
}

/// The end of a token's lifetime. The date alone says nothing about a token of a pipeline, which expires in minutes.
fn end(expiry: Timestamp, now: Timestamp) -> String {
    match expiry.as_second() - now.as_second() {
        DAY_SECONDS.. => expiry.strftime("%Y-%m-%d").to_string(),
        left => format!("{} UTC, in {} min", expiry.strftime("%Y-%m-%d %H:%M"), left.max(0) / 60),
    }
}

/// What is to be said of the sealed values that the token sees: a line for each that could be better, and one for all.
fn values(settings: &Settings, connect: &settings::Connect) -> Result<Vec<Finding>, AnyFault> {
    let client = Connect::open(connect)?;
    let patience = settings.deliver.deadline;
    block_on(settings, async |deadline| {
        let (keks, mut findings, mut all) = (Keks::new(settings), Vec::new(), 0);
        let vaults = client.vaults(deadline).await?;
        for vault in &vaults {
            let is_unique = vaults.iter().filter(|other| other.name == vault.name).count() == 1;
            let vault = if is_unique { &vault.name } else { &vault.id };
            let fields = client.fields_of(vault, is_sealed, patience).await?;
            all += fields.len();
            for StoredField { name, value, .. } in fields {
                let sealed: SealedValue = match value.parse() {
                    Ok(sealed) => sealed,
                    Err(error) => {
                        findings.push(Finding::problem(&name, &error));
                        continue;
                    }
                };
                let rewrap =
                    format!("oci-secrets rewrap --from {0} --to {0} --vault \"{vault}\" --write", sealed.kek());
                if sealed.is_direct() {
                    let detail = "sealed by the tool of its KMS, which saw the secret".to_owned();
                    findings.push(Finding::warning(&name, detail, rewrap));
                    continue;
                }
                match sealed.is_old(&keks, Deadline::after(patience)).await {
                    Ok(false) => {}
                    Ok(true) => {
                        let detail = format!("under an old version of {}", sealed.kek());
                        findings.push(Finding::warning(&name, detail, rewrap));
                    }
                    Err(error) => findings.push(Finding::problem(&name, &error)),
                }
            }
        }
        findings.push(Finding::ok("values", format!("{all} sealed values were looked at, none was opened")));
        Ok(findings)
    })
}

/// Where records go, and whether an existing file can be appended to.
fn audit(settings: &Settings) -> Finding {
    let path = match (settings.audit.file.as_deref(), syslog::listener()) {
        (Some(path), _) => path.to_owned(),
        (None, Some(log)) => return Finding::ok("audit", format!("records go to {log}")),
        (None, None) => match default_file() {
            Ok(path) => path,
            Err(error) => return Finding::problem("audit", &error),
        },
    };
    let is_default = settings.audit.file.is_none();
    let why = if is_default { ", as no system log listens" } else { "" };
    // Opening a file in a missing directory fails and creates nothing. The hook creates the directory of the default file.
    let is_there = path.exists() || !is_default && !path.parent().is_some_and(Path::exists);
    match is_there.then(|| Trail::open(&settings.audit, settings.deliver.deadline)) {
        None => Finding::ok("audit", format!("records go to {}{why}; the file will be created", path.display())),
        Some(Ok(_)) => Finding::ok("audit", format!("records go to {}{why}", path.display())),
        Some(Err(error)) => Finding::problem("audit", &error),
    }
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::default();
    findings.iter().for_each(|finding| finding.write(&mut table));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_time_at_which_a_token_of_minutes_ends() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let after = |seconds: i64| end(Timestamp::from_second(1_800_000_000 + seconds).unwrap(), now);
        assert_eq!(after(300), "2027-01-15 08:05 UTC, in 5 min");
        assert_eq!(after(0), "2027-01-15 08:00 UTC, in 0 min");
        assert_eq!(after(DAY_SECONDS), "2027-01-16");
    }

    #[test]
    fn finds_swap_below_the_heading() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(!lists_swap(heading));
        assert!(lists_swap(&format!("{heading}/dev/zram0 partition\t8388604\t0\t100\n")));
    }
}
