//! Grants that check annotations which their beneficiaries can set.

use crate::cli::finding::Finding;
use crate::container::{NAMESPACE_KEYS, is_identity};
use crate::engine::{Engine, Host};
use crate::settings::{Grant, Settings};

/// One line for each grant that depends only on annotations which the author of a pod, or the caller of an engine, chooses.
///
/// Names of pods and containers are such annotations too: only the namespace is not the author's choice.
pub(super) fn findings(settings: &Settings, engines: &[Engine], host: &Host) -> Vec<Finding> {
    let grants = (1..).zip(settings.grants.iter());
    let of_grant = |(position, grant): (usize, &Grant)| {
        let unknown = unknown(position, grant, settings);
        unknown.or_else(|| finding(position, grant, engines, host))
    };
    grants.filter_map(of_grant).collect()
}

/// A grant by identity, of which nothing is known: it gives nothing.
fn unknown(position: usize, grant: &Grant, settings: &Settings) -> Option<Finding> {
    let is_unknown = grant.is_identity() && settings.nri.socket.is_none();
    is_unknown.then(|| {
        let detail = format!("grant {position} is for pods by `service-account` or `labels`, and gives nothing");
        Finding::warning("grants", detail, "set `socket` under [nri] in the settings of the broker".into())
    })
}

fn finding(position: usize, grant: &Grant, engines: &[Engine], host: &Host) -> Option<Finding> {
    let is_bound = grant.namespace().is_some() || grant.annotations().any(|(key, _)| NAMESPACE_KEYS.contains(&key));
    let keys: Vec<&str> = grant.annotations().map(|(key, _)| key).filter(|_| !is_bound).collect();
    let by = |engine: &&Engine| keys.iter().all(|key| engine.pod_author_chooses(host, key));
    let list = keys.join(", ");
    match engines.iter().find(by) {
        _ if keys.is_empty() => None,
        None if keys.iter().any(|key| is_identity(key)) => None,
        Some(engine) => {
            let detail =
                format!("grant {position} checks {list}, which the author of a pod chooses under {}", engine.name());
            let advice = "to = { namespace = … } checks the pod's namespace, which its author cannot change";
            Some(Finding::warning("grants", detail, advice.into()))
        }
        None => {
            let detail = format!(
                "grant {position} checks {list}, which the caller of podman, Docker or a runtime sets; for pods, use to = {{ namespace = … }}"
            );
            Some(Finding::note("grants", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found for a grant on a host whose containerd lets `team` through.
    fn found(to: &str, engines: &[Engine]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("etc/containerd");
        std::fs::create_dir_all(&directory).unwrap();
        let wrapper = root.path().join("oci-secrets-runtime");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::write(&wrapper, "").unwrap();
        std::fs::set_permissions(&wrapper, mode).unwrap();
        let settings = format!(
            "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.x]\noptions.BinaryName = '{}'\n\
             pod_annotations = ['run.secrets/*', '*.run.secrets/*', 'run.secrets.*', 'team']",
            wrapper.display()
        );
        std::fs::write(directory.join("config.toml"), settings).unwrap();
        let host = Host::below(root.path().to_owned());
        let settings: Settings =
            format!("[[grant]]\nreferences = ['op://A/*']\n[[grant]]\nreferences = ['op://V/*']\nto = {to}")
                .parse()
                .unwrap();
        findings(&settings, engines, &host).iter().map(|finding| serde_json::to_string(finding).unwrap()).collect()
    }

    #[test]
    fn warns_of_annotations_that_the_author_of_a_pod_can_set() {
        let pods = [Engine::Crio, Engine::Containerd];
        for engine in pods {
            let [warning] = &found("{ annotations = { team = 'a' } }", &[engine])[..] else { panic!() };
            assert!(warning.contains("warning") && warning.contains("grant 2 checks team"), "{warning}");
            assert!(warning.contains(engine.name()) && warning.contains("namespace = …"), "{warning}");
        }
        let [warning] = &found("{ annotations = { other = 'a', team = 'a' } }", &pods)[..] else { panic!() };
        assert!(warning.contains("other, team, which the author of a pod chooses under crio"), "{warning}");
        // containerd does not pass `other` on: only the caller of another engine can set it.
        for (to, engines) in [
            ("{ annotations = { other = 'a' } }", &[Engine::Containerd][..]),
            ("{ annotations = { team = 'a', other = 'a' } }", &[Engine::Containerd]),
            ("{ annotations = { team = 'a' } }", &[]),
        ] {
            let [note] = &found(to, engines)[..] else { panic!() };
            assert!(note.contains("\"note\"") && note.contains("the caller of podman"), "{note}");
        }
    }

    #[test]
    fn warns_of_names_that_the_author_of_a_pod_gives() {
        for (engine, key) in
            [(Engine::Crio, "io.kubernetes.container.name"), (Engine::Containerd, "io.kubernetes.cri.sandbox-name")]
        {
            let to = format!("{{ annotations = {{ '{key}' = 'a' }} }}");
            assert!(matches!(&found(&to, &[engine])[..], [warning] if warning.contains("warning")), "{key}");
            assert!(found(&to, &[]).is_empty(), "{key}");
        }
        // An annotation that does not count: the grant gives nothing.
        let ignored = found("{ annotations = { 'io.kubernetes.cri.sandbox-name' = 'a' } }", &[Engine::Crio]);
        assert!(ignored.is_empty(), "{ignored:?}");
    }

    #[test]
    fn warns_of_identities_that_no_runtime_reports() {
        let to = "{ namespace = 'agents', service-account = 'billing' }";
        let [warning] = &found(to, &[Engine::Containerd])[..] else { panic!() };
        assert!(warning.contains("grant 2 is for pods by `service-account`") && warning.contains("[nri]"), "{warning}");
        assert!(found(&format!("{to}\n[nri]\nsocket = '/n'"), &[Engine::Containerd]).is_empty());
    }

    #[test]
    fn a_namespace_is_not_the_choice_of_the_author() {
        for to in [
            "{ namespace = 'agents' }",
            "{ namespace = 'agents', annotations = { team = 'a' } }",
            "{ annotations = { 'io.kubernetes.cri.sandbox-namespace' = 'agents', team = 'a' } }",
        ] {
            assert!(found(to, &[Engine::Crio, Engine::Containerd]).is_empty(), "{to}");
        }
    }
}
