//! The files in `config/` are valid, complete, and agree with the code and the documents.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use oci_secrets::gateway::settings as gateway;
use oci_secrets::settings::{
    Audit, AwsIdentity, AwsKms, Broker, Caller, DEADLINE, Deliver, Kubernetes, LocalKek, Nri, Op, OpUnlock, Outage,
    Pkcs11, Settings, SourceName, Updates, parse,
};
use regex::Regex;
use serde_json::Value;

const BROKER: &str = include_str!("../packaging/docs/broker.md");
const GATEWAY: &str = include_str!("../config/gateway.toml");
const SETTINGS: &str = include_str!("../config/settings.reference.toml");
const INSTALLED: &str = include_str!("../config/settings.toml");
const GUIDE: &str = include_str!("../packaging/docs/gateway.md");
const HOOK: &str = include_str!("../config/hooks.d/90-oci-secrets.json");
const CHECK: &str = include_str!("../config/hooks.d/91-oci-secrets-check.json");
const DOCKER: &str = include_str!("../config/docker/daemon.json");
const CONTAINERD: &str = include_str!("../config/containerd/config.toml");
const ENGINES: &str = include_str!("../packaging/docs/engines.md");
const SYSUSERS: &str = include_str!("../packaging/systemd/oci-secrets-gateway.sysusers");
const UNIT: &str = include_str!("../packaging/systemd/oci-secrets-gateway.service");
const INSTALL: &str = include_str!("../packaging/docs/install.md");

/// The table of containerd's CRI plugin, in version 2 of the configuration format.
const CRI: &str = "io.containerd.grpc.v1.cri";

#[test]
fn the_settings_load_as_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("settings.toml");
    fs::write(&path, SETTINGS).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let settings = Settings::load(&path).unwrap();
    assert!(settings.connect.is_some());
    assert!(settings.kek_is_listed("gcp-kms://projects/acme/locations/europe-west1/keyRings/agents/cryptoKeys/k"));
}

#[test]
fn the_installed_settings_give_the_first_container_its_secret() {
    let settings: Settings = INSTALLED.parse().unwrap();
    assert!(settings.connect.is_some() && settings.kek_is_listed("local-kek:trial"));
    let reference = "op://AgentVault/database/password".parse().unwrap();
    assert!(settings.grants.decide(&reference, &Default::default(), false, Caller::Root).is_ok());
}

#[test]
fn optional_keys_show_their_defaults() {
    let written: Settings = SETTINGS.parse().unwrap();
    let full: Settings = with_optional_keys().parse().unwrap();
    assert_eq!(full.deliver, Deliver::default());
    assert_eq!(full.local_kek.directory(), LocalKek::default().directory());
    assert!(full.grants.named("agents").is_some() && written.grants.named("agents").is_none());
    assert!(full.gcp_kms.sends_credentials());
    let plain = with_optional_keys().replace("https://connect", "http://connect");
    assert!(plain.parse::<Settings>().unwrap_err().to_string().contains("plain http"));
    // Keys whose default is to be absent show an example.
    let op = full.op.unwrap();
    assert_eq!((&op.program, op.timeout), (&Op::default().program, Op::default().timeout));
    assert!(matches!(op.unlock, OpUnlock::ServiceAccount { .. }) && written.op.is_none());
    let conditions = full.static_token.unwrap();
    assert!(conditions.max_age.is_some() && conditions.rate.is_some() && written.static_token.is_none());
    assert!(!conditions.addresses.is_empty() && !conditions.schedule.is_empty());
    assert_eq!((full.source, written.source), (Some(SourceName::Connect), None));
    assert!(full.connect.unwrap().ca_file.is_some() && written.connect.unwrap().ca_file.is_none());
    assert!(matches!(&full.aws_kms.identity, AwsIdentity::Profile { profile, .. } if profile == "default"));
    assert_eq!(written.aws_kms, AwsKms::default());
    assert_eq!(full.pkcs11.helper, Pkcs11::default().helper);
    assert!(full.pkcs11.module.is_some() && written.pkcs11 == Pkcs11::default());
    assert!(full.gcp_kms.credentials_file.is_some() && written.gcp_kms.credentials_file.is_none());
    assert!(full.audit.file.is_some() && written.audit == Audit::default());
    assert!(!full.audit.chain);
    assert!(full.broker.max_age.is_some() && full.broker.requests_per_hour.is_some());
    assert_eq!((&full.nri.hook, &written.nri), (&Nri::default().hook, &Nri::default()));
    assert!(full.nri.socket.is_some() && full.nri.hook_settings.is_some());
    assert!(full.kubernetes.url.is_some() && written.kubernetes == Kubernetes::default());
    assert_eq!(Kubernetes { url: None, ..full.kubernetes }, Kubernetes::default());
    assert_eq!(full.outage.directory, Outage::default().directory);
    assert!(full.outage.sealed_values_for.is_some() && written.outage == Outage::default());
    assert!(full.updates == Updates::default() && written.updates == Updates::default());
    assert!(full.broker.socket.is_some() && full.broker.metrics.is_some() && written.broker == Broker::default());
    assert_eq!(full.broker.connections, Broker::default().connections);
    assert_eq!(full.broker.connections_per_user, Broker::default().connections_per_user);
}

#[test]
fn the_settings_show_every_key_that_the_code_knows() {
    let mut shown = 0;
    for (section, unknown) in [
        ("", "no-such-key = 1"),
        ("connect", "[connect]\nno-such-key = 1"),
        ("op", "[op]\nno-such-key = 1"),
        ("static-token", "[static-token]\nno-such-key = 1"),
        ("gcp-kms", "[gcp-kms]\nno-such-key = 1"),
        ("aws-kms", "[aws-kms]\nno-such-key = 1"),
        ("pkcs11", "[pkcs11]\nno-such-key = 1"),
        ("local-kek", "[local-kek]\nno-such-key = 1"),
        ("deliver", "[deliver]\nno-such-key = 1"),
        ("grant", "[[grant]]\nno-such-key = 1"),
        ("audit", "[audit]\nno-such-key = 1"),
        ("break-glass", "[break-glass]\nno-such-key = 1"),
        ("broker", "[broker]\nno-such-key = 1"),
        ("nri", "[nri]\nno-such-key = 1"),
        ("outage", "[outage]\nno-such-key = 1"),
        ("updates", "[updates]\nno-such-key = 1"),
        ("kubernetes", "[kubernetes]\nno-such-key = 1"),
    ] {
        for key in keys_expected_instead_of(unknown) {
            assert!(shows(section, &key), "config/settings.reference.toml lacks [{section}] {key}");
            shown += 1;
        }
    }
    let keys = keys_expected_instead_of("[[grant]]\nreferences = []\nto = { no-such-key = 1 }");
    assert_eq!(keys, ["user", "namespace", "service-account", "labels", "annotations"]);
    assert!(
        keys.iter()
            .all(|key| SETTINGS.lines().map(self::shown).any(|line| line.starts_with(&format!("to = {{ {key} = "))))
    );
    assert!(shown >= 20, "only {shown} keys were looked for");
    assert!(!shows("connect", "deadline") && !shows("", "deadline"));
}

#[test]
fn the_page_of_the_broker_shows_each_of_its_settings() {
    let part = BROKER.split("\n## ").find(|part| part.starts_with("Settings\n")).unwrap();
    let rows = part.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let rows: BTreeSet<String> = rows.map(|(key, _)| key.to_owned()).collect();
    assert_eq!(rows, keys_expected_instead_of("[broker]\nno-such-key = 1").into_iter().collect());
}

#[test]
fn the_hook_runs_once_with_its_own_environment_and_enough_time() {
    let hook: Value = serde_json::from_str(HOOK).unwrap();
    assert_eq!(hook["version"], "1.0.0");
    assert_eq!(hook["stages"], serde_json::json!(["createRuntime"]));
    // Without `env`, runc and crun pass their own environment to the hook.
    assert!(!hook["hook"]["env"].as_array().unwrap().is_empty());
    assert!(hook["hook"]["timeout"].as_u64().unwrap() > DEADLINE.as_secs());
    assert!(hook["hook"]["path"].as_str().unwrap().starts_with('/'));
    assert!(hook["when"].get("always").is_none());
}

#[test]
fn the_hook_runs_for_every_run_secrets_key_in_any_spelling() {
    let hook: Value = serde_json::from_str(HOOK).unwrap();
    let annotations = hook["when"]["annotations"].as_object().unwrap();
    assert_eq!(annotations.len(), 1, "engines require every pair to match");
    let (key, value) = annotations.iter().next().unwrap();
    // For these patterns, the syntax of Go and of this crate is the same, and neither is anchored.
    let (key, value) = (Regex::new(key).unwrap(), Regex::new(value.as_str().unwrap()).unwrap());
    assert!(value.is_match("op://AgentVault/database/password") && value.is_match(""));
    for ours in [
        "run.secrets/db-password",
        "app.run.secrets/db-password",
        "run.secrets.owner",
        "run.secrets.optional",
        "Run.Secrets/db-password",
        "app.RUN.SECRETS/db-password",
        " run.secrets/db-password",
        "run. secrets/db-password",
        "run.secrets",
        "run.secret/db-password",
        "run-secrets/db-password",
        "runsecrets/db-password",
    ] {
        assert!(key.is_match(ours), "{ours}");
    }
    for others in [
        "io.container.manager",
        "io.kubernetes.cri.sandbox-namespace",
        "run.oci.hooks.stderr",
        "prerun.secrets/x",
        "secrets",
    ] {
        assert!(!key.is_match(others), "{others}");
    }
}

#[test]
fn the_hook_checks_every_container_with_a_reference_in_its_annotations() {
    let hook: Value = serde_json::from_str(HOOK).unwrap();
    let check: Value = serde_json::from_str(CHECK).unwrap();
    assert_eq!(check["hook"]["args"], serde_json::json!(["oci-secrets-hook", "--check-annotations"]));
    for same in ["/version", "/stages", "/hook/path", "/hook/env", "/hook/timeout"] {
        assert_eq!(check.pointer(same), hook.pointer(same), "{same}");
    }
    let (key, value) = check["when"]["annotations"].as_object().unwrap().iter().next().unwrap();
    let (key, value) = (Regex::new(key).unwrap(), Regex::new(value.as_str().unwrap()).unwrap());
    assert!(key.is_match("db") && key.is_match("example.com/db"));
    assert!(value.is_match("op://v/i/f") && value.is_match(" OP://v") && !value.is_match("see op://v/i/f"));
}

#[test]
fn docker_runs_every_container_under_the_wrapper() {
    let docker: Value = serde_json::from_str(DOCKER).unwrap();
    let wrapper = docker["runtimes"]["oci-secrets"]["path"].as_str().unwrap();
    assert_eq!(docker["default-runtime"], "oci-secrets");
    assert!(INSTALL.contains(&format!("sudo install -m 0755 \"$bin/oci-secrets-runtime\" {wrapper} ")), "{wrapper}");
}

#[test]
fn containerd_begins_every_container_with_the_base_spec() {
    let containerd: toml::Table = toml::from_str(CONTAINERD).unwrap();
    assert_eq!(containerd["version"].as_integer(), Some(2));
    let runtimes = &containerd["plugins"][CRI]["containerd"];
    assert_eq!(runtimes["default_runtime_name"].as_str(), Some("oci-secrets"));
    let handler = &runtimes["runtimes"]["oci-secrets"];
    assert_eq!(handler["runtime_type"].as_str(), Some("io.containerd.runc.v2"));
    let base = handler["base_runtime_spec"].as_str().unwrap();
    let engines = ENGINES.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(engines.contains(&format!("shows two files: `{base}`, which is the output of")), "{base}");
}

#[test]
fn containerd_passes_every_run_secrets_annotation_and_no_other() {
    let containerd: toml::Table = toml::from_str(CONTAINERD).unwrap();
    let globs = containerd["plugins"][CRI]["containerd"]["runtimes"]["oci-secrets"]["pod_annotations"].as_array();
    // The globs use only `*` of Go's path.Match: any text without a slash.
    let pattern = |glob: &str| Regex::new(&format!("^{}$", regex::escape(glob).replace(r"\*", "[^/]*"))).unwrap();
    let globs: Vec<Regex> = globs.unwrap().iter().map(|glob| pattern(glob.as_str().unwrap())).collect();
    let passes = |key: &str| globs.iter().any(|glob| glob.is_match(key));
    for ours in
        ["run.secrets/db", "app.run.secrets/db", "run.secrets.owner", "run.secrets.optional", "run.secrets.update"]
    {
        assert!(passes(ours), "{ours}");
    }
    for others in ["io.kubernetes.cri.sandbox-namespace", "team", "example.com/run.secrets", "run.oci.hooks.stderr"] {
        assert!(!passes(others), "{others}");
    }
}

#[test]
fn the_settings_of_the_gateway_load_as_written_and_show_their_defaults() {
    let written: gateway::Settings = parse(GATEWAY).unwrap();
    assert_eq!((written.issuers.len(), written.rules.len(), written.warnings().len()), (1, 1, 0));
    let full: String = GATEWAY.lines().map(|line| format!("{}\n", optional(line).unwrap_or(line))).collect();
    let full: gateway::Settings = parse(&full).unwrap();
    assert_eq!(full.limits, gateway::Limits::default());
    let (issuer, default) = (&full.issuers[0], &written.issuers[0]);
    assert_eq!((issuer.leeway, issuer.max_lifetime), (default.leeway, default.max_lifetime));
    assert!(issuer.jwks_url.is_some() && issuer.ca_file.is_some() && issuer.algorithms.is_some());
    assert!(default.jwks_url.is_none() && default.ca_file.is_none() && default.algorithms.is_none());
    assert!(full.audit.file.is_some() && !full.audit.stdout && full.metrics.is_some());
    assert!(written.audit.file.is_none() && written.metrics.is_none());
}

#[test]
fn the_settings_of_the_gateway_show_every_key_that_the_code_knows() {
    let mut keys = 0;
    for section in ["", "[tls]", "[connect]", "[[issuer]]", "[[rule]]", "[limits]", "#[metrics]", "[audit]"] {
        let unknown = match section {
            "" => format!("no-such-key = 1\n{GATEWAY}"),
            _ => GATEWAY.replace(section, &format!("{}\nno-such-key = 1", section.trim_start_matches('#'))),
        };
        let error = parse::<gateway::Settings>(&unknown).unwrap_err().to_string();
        let (_, expected) = error.rsplit_once(", expected ").unwrap();
        for key in expected.split('`').skip(1).step_by(2) {
            let is_shown = |line: &str| {
                let line = shown(line);
                line.starts_with(&format!("{key} = ")) || line.trim_matches(['[', ']']) == key
            };
            assert!(GATEWAY.lines().any(is_shown), "config/gateway.toml lacks {section} {key}");
            keys += 1;
        }
    }
    assert!(keys >= 30, "only {keys} keys were looked for");
}

#[test]
fn the_units_of_the_gateway_run_what_the_guide_installs() {
    let programs: Vec<&str> = UNIT.lines().filter_map(|line| line.strip_prefix("ExecStart=")).collect();
    assert_eq!(programs, ["/usr/bin/oci-secrets-gateway"]);
    assert!(GUIDE.contains(&format!("\"$bin/oci-secrets-gateway\" {}\n", programs.concat())));
    assert!(UNIT.contains("\nUser=oci-secrets-gateway\n") && SYSUSERS.contains("\nu oci-secrets-gateway "));
    assert!(GUIDE.contains("-o oci-secrets-gateway"));
}

/// The settings with every `#key = value` made `key = value`.
fn with_optional_keys() -> String {
    SETTINGS.lines().map(|line| format!("{}\n", optional(line).unwrap_or(line))).collect()
}

fn optional(line: &str) -> Option<&str> {
    line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' '))
}

/// A line without its comment sign: a key, an optional key (`#key = value`) or an alternative (`# key = value`).
fn shown(line: &str) -> &str {
    line.strip_prefix("# ").or(optional(line)).unwrap_or(line)
}

/// The keys of a section, from the error message about an unknown one.
fn keys_expected_instead_of(text: &str) -> Vec<String> {
    let error = text.parse::<Settings>().unwrap_err().to_string();
    let (_, expected) = error.rsplit_once(", expected ").unwrap();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn shows(section: &str, key: &str) -> bool {
    let mut current = "";
    SETTINGS.lines().map(shown).any(|line| match line.strip_prefix('[') {
        Some(header) => {
            current = header.trim_matches(['[', ']']);
            section.is_empty() && current.split('.').next() == Some(key)
        }
        None => current == section && line.starts_with(&format!("{key} = ")),
    })
}
