"""Tests the chart with Helm's own code, Kubernetes' schemas, the programs whose settings it writes, and an evaluator of CEL.

Runs as root in a mount namespace of its own: tests/helm/run. Usage: chart.py DIRECTORY, which has the programs.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import cel
import helm_python as helm
import kubelet
import kubernetes_validate
import yaml
from render import CHART, TOP, render

CASES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((TOP / "tests/helm/values").glob("*.yaml"))}
# The oldest that the chart supports, and the newest that there are schemas for.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
# Of a custom resource there is no schema.
CUSTOM = ["PodMonitor"]

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt").read_text()
# Values of secrets and config maps of the cluster, by their names.
DATA = {
    "connect-token": {"token": "x", "other.key": "x"},
    "connect-ca": {"bundle.pem": CERTIFICATES},
    "gateway-ca": {"ca.pem": CERTIFICATES},
    "keks": {"trial": "x"},
    "kube-root-ca.crt": {"ca.crt": CERTIFICATES},
    "tokens": {},
}


def merged(values, path, value):
    """The values with another value at this dotted path."""
    values = json.loads(json.dumps(values))
    *parents, last = path.split("/")
    inner = values
    for key in parents:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return values


def test_lint():
    for name, values in CASES.items():
        found = helm.lint(str(CHART), values)
        messages = [message for message in found["messages"] if "icon is recommended" not in message["error"]]
        assert messages == [] and found["errors"] == [], (name, found)


def test_every_object_is_valid():
    for name, values in CASES.items():
        documents = render(values)
        kinds = [document["kind"] for document in documents]
        assert kinds.count("DaemonSet") == 2 and len(documents) >= 8, (name, kinds)
        for document in documents:
            if document["kind"] not in CUSTOM:
                for version in VERSIONS:
                    kubernetes_validate.validate(document, version, strict=True)
        names = [(document["kind"], document["metadata"]["name"]) for document in documents]
        assert len(set(names)) == len(names), names


# What would change the meaning of an object, take a file that the chart writes, or be ignored.
HOSTILE = [
    ("image/repository", ""),
    ("image/repository", 'x"\n  privileged: true'),
    ("image/digest", "sha256:12"),
    ("image/tag", "a b"),
    ("image/pullPolicy", "Sometimes"),
    ("images", {}),
    ("settings/keks", []),
    ("settings/keks", "gcp-kms://x"),
    ("settings/kek", ["gcp-kms://x"]),
    ("settings/connect", {}),
    ("settings/connect/token-file", "/etc/shadow"),
    ("settings/connect/ca-file", "/etc/x.pem"),
    ("settings/nri", {"socket": "/x"}),
    ("settings/broker", {"socket": "/tmp/broker.sock"}),
    ("settings/broker", {"kubernetes-namespace": "x"}),
    ("settings/broker", {"requests-per-hour": 1000000}),
    ("settings/broker", {"connections": 1.5}),
    ("settings/kubernetes", {"token-file": "/etc/shadow"}),
    ("settings/kubernetes", {"ca-file": "/etc/x.pem"}),
    ("settings/updates", {"directory": "/tmp/x"}),
    ("settings/op", {}),
    ("settings/pkcs11", {"module": "/x.so"}),
    ("connect/tokenSecret/name", ""),
    ("connect/tokenSecret/name", "a/../b"),
    ("connect/tokenAudience", "https://gateway.internal"),
    ("connect/caConfigMap/key", "../ca.pem"),
    ("aws/roleArn", "arn:aws:iam::1:role/x"),
    ("aws", {"roleArn": "arn:aws:iam::123456789012:role/x"}),
    ("serviceAccount/annotations", {"a": 1}),
    ("node/hookDirectory", "/"),
    ("node/hookDirectory", "opt/oci-secrets"),
    ("node/hookDirectory", "/opt/../etc"),
    ("node/hookDirectory", '/opt/x"\ny: z'),
    ("node/nriDirectory", "/var/run/nri/"),
    ("node/journal", "yes"),
    ("admissionPolicy/runtimeClasses", ["x'] || true || ['"]),
    ("metrics/enabled", "on"),
    ("tolerations", {}),
    ("extraVolumes", [{"name": "hook", "emptyDir": {}}]),
]


def test_hostile_values_are_refused():
    with helm.Chart.load(CHART) as chart:
        for path, value in HOSTILE:
            try:
                chart.validate_schema(merged(CASES["default"], path, value))
            except helm.HelmValuesError:
                continue
            raise AssertionError(f"the schema accepts {path} = {value!r}")


def test_text_of_values_stays_text():
    text = '"]\n[broker]\nsocket = "/tmp/x'
    documents = render(merged(CASES["default"], "settings/grant", [{"references": [text]}]))
    settings = kubelet.by_name(documents, "ConfigMap")["oci-secrets"]["data"]["settings.toml"]
    parsed = tomllib.loads(settings)
    broker = {"socket": "/run/oci-secrets/broker.sock", "kubernetes-namespace": "oci-secrets"}
    assert parsed["grant"] == [{"references": [text]}] and parsed["broker"] == broker


# What the image has as the hook, which is installed and not run.
HOOK = b"the hook"


class Pod:
    """A pod whose containers are run one by one."""

    def __init__(self, programs, spec, documents):
        self.programs, self.documents = programs, documents
        self.volumes = {volume["name"]: volume for volume in spec["volumes"]}

    def run(self, container, *more):
        """Runs the command of a container in a root directory with the files that Kubernetes gives it."""
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", root], check=True)
            try:
                return self.run_in(root, container, more)
            finally:
                subprocess.run(["umount", "--recursive", root], check=True)

    def run_in(self, root, container, more):
        for path in ["usr/bin/oci-secrets", "usr/bin/oci-secrets-broker"]:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
            subprocess.run(["mount", "--bind", self.programs / Path(path).name, root / path], check=True)
        (hook := root / "usr/libexec/oci/hooks.d/oci-secrets-hook").parent.mkdir(parents=True)
        hook.write_bytes(HOOK)
        for directory in ["proc", "usr/lib", "usr/lib64", "etc/ssl/certs"]:
            if (source := Path("/") / directory).exists():
                (root / directory).mkdir(parents=True)
                subprocess.run(["mount", "--rbind", source, root / directory], check=True)
        for link in ["lib", "lib64"]:
            (root / link).symlink_to(f"usr/{link}")
        for mount in container["volumeMounts"]:
            path = root / mount["mountPath"].lstrip("/")
            kubelet.fill(path, self.volumes[mount["name"]], self.documents, DATA)
        command = ["/usr/sbin/chroot", root, *container["command"], *more]
        ended = subprocess.run(command, capture_output=True, text=True, env={}, check=False)
        files = {str(path.relative_to(root / "node")): path for path in (root / "node").glob("**/*")}
        return ended, {name: path.read_bytes() for name, path in files.items() if path.is_file()}


def pod_spec(documents, name):
    return kubelet.by_name(documents, "DaemonSet")[name]["spec"]["template"]["spec"]


def test_the_programs_accept_what_the_chart_mounts(programs):
    for name, values in CASES.items():
        documents = render(values)
        for daemon_set, checks in [("oci-secrets", 2), ("oci-secrets-guard", 1)]:
            spec = pod_spec(documents, daemon_set)
            pod = Pod(programs, spec, documents)
            assert len(spec["initContainers"]) == checks
            for container in spec["initContainers"]:
                ended, files = pod.run(container)
                assert ended.returncode == 0, (name, daemon_set, container["name"], ended.stderr)
                if container["name"] == "install-hook":
                    assert sorted(files) == ["oci-secrets-hook", "settings.toml"], files.keys()
                    assert files["oci-secrets-hook"] == HOOK
                    assert b'socket = "/run/oci-secrets/broker.sock"' in files["settings.toml"]
                    assert b'kubernetes-namespace = "oci-secrets"' in files["settings.toml"]
            settings = kubelet.by_name(documents, "ConfigMap")[daemon_set]["data"]["settings.toml"]
            assert 'kubernetes-namespace = "oci-secrets"' in settings, settings
            if daemon_set == "oci-secrets-guard":
                # Its settings name no source, so they are only parsed: a probe reads them, and then finds no broker.
                ended, _ = pod.run(spec["containers"][0] | {"command": probe(spec, "livenessProbe")})
                assert ended.returncode == 69 and "cannot reach the broker" in ended.stderr, ended.stderr
                assert "`kubectl --namespace oci-secrets get pods" in ended.stderr, ended.stderr


def probe(spec, kind):
    return spec["containers"][0][kind]["exec"]["command"]


def test_a_wrong_setting_ends_the_rollout(programs):
    for setting, error in [("deliver", {"deadlin": "1s"}), ("grant", [{"reference": ["op://A/*"]}])]:
        documents = render(merged(CASES["default"], f"settings/{setting}", error))
        spec = pod_spec(documents, "oci-secrets")
        check = next(container for container in spec["initContainers"] if container["name"] == "check")
        ended, _ = Pod(programs, spec, documents).run(check)
        assert ended.returncode == 78 and "cannot parse /etc/oci-secrets/settings.toml" in ended.stderr, ended


def test_numbers_stay_numbers():
    settings = kubelet.by_name(render(CASES["all"]), "ConfigMap")["oci-secrets"]["data"]["settings.toml"]
    for line in ["connections = 100000\n", "requests-per-hour = 1000\n", 'workload = "${1} = 7.0 {{ x }} \\"quoted\\""\n']:
        assert line in settings, settings


def test_the_guard_survives_with_all_it_needs():
    for values in CASES.values():
        documents = render(values)
        kept = {
            (document["kind"], document["metadata"]["name"])
            for document in documents
            if document["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
        }
        spec = pod_spec(documents, "oci-secrets-guard")
        needed = {("DaemonSet", "oci-secrets-guard"), ("ServiceAccount", spec["serviceAccountName"])}
        needed |= {("ConfigMap", volume["configMap"]["name"]) for volume in spec["volumes"] if "configMap" in volume}
        assert needed <= kept, (needed, kept)
        # The label by which the page removes them.
        for document in documents:
            is_kept = (document["kind"], document["metadata"]["name"]) in kept
            component = document["metadata"]["labels"].get("app.kubernetes.io/component")
            assert is_kept == (component == "guard"), document["metadata"]
        assert ("DaemonSet", "oci-secrets") not in kept
        # It has no credential, and its own socket: hooks find no broker after it is gone.
        assert spec["automountServiceAccountToken"] is False and "hostPID" not in spec
        run = next(volume for volume in spec["volumes"] if volume["name"] == "run")
        assert "emptyDir" in run
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds == {"configMap", "hostPath", "emptyDir"}, kinds


def test_a_new_node_gets_both_daemon_sets_before_its_taint_is_removed():
    page = (TOP / "packaging/docs/kubernetes.md").read_text()
    key = re.search(r"^    (run\.secrets/[a-z-]+)=true:NoSchedule$", page, re.MULTILINE)[1]
    assert f"kubectl taint node NAME {key}-" in page
    components = re.search(r"'app.kubernetes.io/component in \(([a-z, ]+)\)'", page)[1].split(", ")
    for values in CASES.values():
        documents = render(values)
        daemon_sets = kubelet.by_name(documents, "DaemonSet").values()
        labels = [daemon_set["spec"]["template"]["metadata"]["labels"] for daemon_set in daemon_sets]
        assert sorted(label["app.kubernetes.io/component"] for label in labels) == sorted(components)
        if "tolerations" not in values:
            for daemon_set in daemon_sets:
                assert daemon_set["spec"]["template"]["spec"]["tolerations"] == [{"operator": "Exists"}]
        # No pod of the chart may change nodes.
        rules = [rule for role in kubelet.by_name(documents, "ClusterRole").values() for rule in role["rules"]]
        assert not any("nodes" in rule["resources"] or "*" in rule["resources"] for rule in rules), rules


def test_privileges_are_those_of_the_unit():
    unit = (TOP / "packaging/systemd/oci-secrets-broker.service").read_text()
    bounding = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)[1].split()
    # The unit has a limit instead.
    expected = {name.removeprefix("CAP_") for name in bounding} | {"IPC_LOCK"}
    documents = render(CASES["default"])
    for name, capabilities in [("oci-secrets", expected), ("oci-secrets-guard", {"IPC_LOCK"})]:
        spec = pod_spec(documents, name)
        for container in spec["containers"] + spec["initContainers"]:
            security = container["securityContext"]
            assert security["capabilities"]["drop"] == ["ALL"] and security["readOnlyRootFilesystem"] is True
            allowed = capabilities if container in spec["containers"] else set()
            assert set(security["capabilities"]["add"]) == allowed, (container["name"], security)
            assert "privileged" not in security
        assert spec["automountServiceAccountToken"] is False


BY_ACCOUNT = [{"references": ["op://A/*"]}, {"references": ["op://B/*"], "to": {"namespace": "a", "service-account": "b"}}]
BY_LABEL = [{"references": ["op://B/*"], "to": {"namespace": "a", "labels": {"app": "b"}}}]


def test_only_grants_by_service_account_give_access_to_the_api_server():
    for setting, value, is_needed in [
        ("grant", BY_ACCOUNT, True),
        ("kubernetes", {}, True),
        ("grant", BY_LABEL, False),
        ("grant", [], False),
    ]:
        documents = render(merged(CASES["default"], f"settings/{setting}", value))
        roles = kubelet.by_name(documents, "ClusterRole")
        rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
        assert {name: role["rules"] for name, role in roles.items()} == ({"oci-secrets-get-pods": rules} if is_needed else {})
        subjects = [binding["subjects"] for binding in kubelet.by_name(documents, "ClusterRoleBinding").values()]
        account = {"kind": "ServiceAccount", "name": "oci-secrets", "namespace": "oci-secrets"}
        assert subjects == ([[account]] if is_needed else []), subjects
        assert kubelet.by_name(documents, "Role") == {} and kubelet.by_name(documents, "RoleBinding") == {}
        for daemon_set in ["oci-secrets", "oci-secrets-guard"]:
            spec = pod_spec(documents, daemon_set)
            mounting = {
                container["name"]
                for container in spec["containers"] + spec["initContainers"]
                for mount in container["volumeMounts"]
                if mount["mountPath"].startswith("/var/run/secrets/kubernetes.io")
            }
            assert mounting == ({"broker"} if is_needed and daemon_set == "oci-secrets" else set()), (value, mounting)


def pod(annotations=None, **spec):
    metadata = {"name": "x"} if annotations is None else {"name": "x", "annotations": annotations}
    return {"metadata": metadata, "spec": spec}


REQUIRED = {"required-plugins.noderesource.dev": '["oci-secrets"]'}
REQUEST = {"run.secrets/db": "op://AgentVault/db/password"}
BARE = "required-plugins.noderesource.dev"
# Pods, and what becomes of them: "admitted" because they are no concern of the policy, "accepted", or "denied".
PODS = [
    (pod(), "admitted"),
    (pod({}), "admitted"),
    (pod({"app.example/run": "secrets", "a": "https://x"}), "admitted"),
    (pod({BARE: "[]"}), "admitted"),
    (pod(REQUEST), "denied"),
    (pod({"app.run.secrets/db": "op://AgentVault/db/password"}), "denied"),
    (pod({"run.secrets.optional": "db"}), "denied"),
    (pod({"Run-Secret/db": "x"}), "denied"),
    (pod({"other/db": " op://AgentVault/db/password"}), "denied"),
    (pod({"other/db": "a {{ op://AgentVault/db/password }}"}), "denied"),
    (pod(REQUEST | REQUIRED), "accepted"),
    (pod(REQUEST | {BARE: '[ "a.b" , "oci-secrets", "c" ]'}), "accepted"),
    (pod(REQUEST | REQUIRED | {f"{BARE}/container.app": '["oci-secrets"]'}), "accepted"),
    (pod(REQUEST | {BARE: ""}), "denied"),
    (pod(REQUEST | {BARE: "[]"}), "denied"),
    (pod(REQUEST | {BARE: "oci-secrets"}), "denied"),
    (pod(REQUEST | {BARE: '["oci-secrets-2"]'}), "denied"),
    (pod(REQUEST | {BARE: '["x"] # "oci-secrets"]'}), "denied"),
    (pod(REQUEST | {f"{BARE}/pod": '["oci-secrets"]'}), "denied"),
    (pod(REQUEST | REQUIRED | {f"{BARE}/container.app": "[]"}), "denied"),
    (pod(REQUEST | REQUIRED | {f"{BARE}/pod": "[]"}), "denied"),
    (pod(REQUEST, runtimeClassName="kata"), "denied"),
]
PODS_OF_CLASSES = [
    (pod(REQUEST), "denied"),
    (pod(REQUEST, runtimeClassName="kata"), "denied"),
    (pod(REQUEST, runtimeClassName="oci-secrets"), "admitted"),
    (pod(REQUEST | REQUIRED, runtimeClassName="kata"), "accepted"),
]


def review(policy, object_):
    """What the API server does with an object."""

    def evaluate(part):
        result = cel.evaluate(part["expression"], {"object": object_})
        assert isinstance(result, bool), result
        return result

    if not all(evaluate(condition) for condition in policy["spec"]["matchConditions"]):
        return "admitted"
    return "accepted" if all(evaluate(validation) for validation in policy["spec"]["validations"]) else "denied"


def test_the_policy_refuses_pods_that_do_not_require_the_plugin():
    for case, pods in [("default", PODS), ("all", PODS_OF_CLASSES)]:
        policy = kubelet.by_name(render(CASES[case]), "ValidatingAdmissionPolicy")["oci-secrets"]
        for object_, expected in pods:
            found = review(policy, object_)
            assert found == expected, (case, object_, found)
    documents = render(merged(CASES["default"], "admissionPolicy/enabled", False))
    assert kubelet.by_name(documents, "ValidatingAdmissionPolicy") == {}


def test_the_policy_recognizes_requests_as_the_hook_files_do():
    policy = kubelet.by_name(render(CASES["default"]), "ValidatingAdmissionPolicy")["oci-secrets"]
    expressions = re.findall(r"r'(.*?)'", policy["spec"]["matchConditions"][0]["expression"])
    files = [json.loads(path.read_text()) for path in sorted((TOP / "config/hooks.d").glob("*.json"))]
    pairs = [pair for file in files for pair in file["when"]["annotations"].items()]
    assert expressions == [pairs[0][0], pairs[1][1]], (expressions, pairs)


def test_every_value_is_described_accepted_and_used():
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    schema = json.loads((CHART / "values.schema.json").read_text())
    page = (TOP / "packaging/docs/kubernetes.md").read_text()
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    assert set(schema["properties"]) == set(values) | {"global"}
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name, value in values.items():
        # `settings` are those of the program, and `resources` those of Kubernetes.
        keys = value if isinstance(value, dict) and name not in ("settings", "resources") else []
        for part, key in [(f"{name}.{key}", key) for key in keys] or [(name, name)]:
            whole = name if name in ("settings", "connect", "aws") else part
            assert re.search(rf"\.Values\.{re.escape(whole)}\b", templates), f"no template uses {part}"
            described = [row for row in rows if row.startswith((f"| `{part}`", f"| `{name}`")) and f"{key}`" in row]
            assert described, f"packaging/docs/kubernetes.md does not describe {part}"
    # A comment stands before each.
    lines = text.splitlines()
    undescribed = [
        line
        for previous, line in zip([""] + lines, lines)
        if re.match(r"\s*[A-Za-z]+:", line) and previous == "" and not line.startswith("#")
    ]
    assert set(undescribed) <= {"serviceAccount:"}, undescribed


def test_the_version_is_that_of_the_programs():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.*)"', (TOP / "Cargo.toml").read_text(), re.MULTILINE)[1]
    assert chart["version"] == chart["appVersion"] == version


def main():
    programs = Path(sys.argv[1]).resolve()
    os.environ.clear()
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    tests = {name: test for name, test in globals().items() if name.startswith("test_")}
    for name, test in tests.items():
        test(programs) if test.__code__.co_argcount else test()
        print(f"ok  {name.removeprefix('test_').replace('_', ' ')}")
    print(f"chart: {len(tests)} passed, 0 failed")


main()
