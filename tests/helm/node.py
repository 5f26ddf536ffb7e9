"""A node: containerd with NRI, and as much of a kubelet as the chart needs. Part of tests/helm/end-to-end, which has the story.

Runs as root in a Debian system of its own. Usage: node.py IMAGE PROGRAMS, with the objects of the release on standard input. PROGRAMS is a
directory with `oci-secrets` and the stand-in.

What differs from a real node: pods have the network of the node, and the API server is a stand-in that knows pods alone.
"""

import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import kubelet

sys.path.append(str(Path(__file__).parents[1] / "support/clients"))
import cri  # noqa: E402

SOCKET = "/run/containerd/containerd.sock"
BUSYBOX = "localhost/busybox:latest"
NODE, CONTAINER = 2, 1
RUNNING, EXITED = 1, 2

call = cri.connect(SOCKET)


def wait_for(condition, what):
    """Waits until a condition holds, and returns its value."""
    deadline = time.monotonic() + cri.WAIT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"no {what} within {cri.WAIT_SECONDS} s"
        time.sleep(0.1)
    return value


class Failed(Exception):
    """A container did not start, for the reason that an event of the pod shows."""


class Pod:
    """A pod. Its spec is that of Kubernetes, as far as the chart uses it."""

    count = 0
    running = []
    # Where each container finds the API server.
    api_server = {}

    def __init__(self, name, namespace, annotations, spec, documents=(), data=None, uid=None):
        Pod.count += 1
        self.spec, self.uid = spec, uid or f"uid-{Pod.count}"
        self.directory = Path("/var/lib/kubelet/pods") / self.uid
        self.volumes = {volume["name"]: self.volume(volume, documents, data) for volume in spec.get("volumes", [])}
        (self.directory / "logs").mkdir(parents=True)
        self.labels = {
            "io.kubernetes.pod.name": name,
            "io.kubernetes.pod.namespace": namespace,
            "io.kubernetes.pod.uid": self.uid,
        }
        self.config = {
            "metadata": {"name": name, "uid": self.uid, "namespace": namespace},
            "log_directory": str(self.directory / "logs"),
            "labels": pairs(self.labels),
            "annotations": pairs(annotations),
            "linux": {"security_context": {"namespace_options": self.namespaces()}},
        }
        self.id = call("RunPodSandbox", config=self.config).pod_sandbox_id
        Pod.running.append(self)

    def namespaces(self):
        return {"network": NODE, "pid": NODE if self.spec.get("hostPID") else CONTAINER}

    def volume(self, volume, documents, data):
        if host := volume.get("hostPath"):
            path = Path(host["path"])
            if host["type"] == "DirectoryOrCreate":
                path.mkdir(parents=True, exist_ok=True)
                path.chmod(0o755)
            assert path.is_dir(), f"hostPath type check failed: {path} is not a directory"
            return path
        path = self.directory / "volumes" / volume["name"]
        kubelet.fill(path, volume, documents, data)
        return path

    def start(self, container):
        """Starts a container, and returns its id."""
        security = container.get("securityContext", {})
        capabilities = security.get("capabilities", {})
        apparmor = security.get("appArmorProfile", {}).get("type")
        config = {
            "metadata": {"name": container["name"]},
            "image": {"image": container["image"]},
            "command": container["command"],
            "envs": pairs(self.api_server),
            "mounts": [
                {
                    "container_path": mount["mountPath"],
                    "host_path": str(self.volumes[mount["name"]]),
                    "readonly": mount.get("readOnly", False),
                }
                for mount in container.get("volumeMounts", [])
            ],
            "labels": pairs(self.labels | {"io.kubernetes.container.name": container["name"]}),
            "log_path": f"{container['name']}.log",
            "linux": {
                "security_context": {
                    "capabilities": {
                        "add_capabilities": capabilities.get("add", []),
                        "drop_capabilities": capabilities.get("drop", []),
                    },
                    "namespace_options": self.namespaces(),
                    "run_as_user": {"value": security.get("runAsUser", 1000)},
                    "readonly_rootfs": security.get("readOnlyRootFilesystem", False),
                    "seccomp": {"profile_type": 0 if seccomp_is_here() else 1},
                }
                | ({"apparmor": {"profile_type": 1}} if apparmor == "Unconfined" else {})
            },
        }
        try:
            container_id = call(
                "CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config
            ).container_id
            call("StartContainer", container_id=container_id)
        except grpc.RpcError as error:
            raise Failed(error.details()) from error
        return container_id

    def run(self, container):
        """Runs a container to its end, and returns what it printed."""
        container_id = self.start(container)
        status = wait_for(lambda: ended(container_id), f"end of {container['name']}")
        text = self.log(container["name"])
        assert status.exit_code == 0, f"{container['name']}: {status.exit_code}: {text}"
        return text

    def log(self, name):
        """What a container printed."""
        lines = (self.directory / "logs" / f"{name}.log").read_text().splitlines()
        return "".join(line.split(" ", 3)[3] + "\n" for line in lines)

    def begin(self):
        """Runs the init containers, starts the container and waits until it is ready."""
        for container in self.spec["initContainers"]:
            self.run(container)
        (container,) = self.spec["containers"]
        self.container_id = self.start(container)
        wait_for(lambda: self.probe("readinessProbe") or self.is_gone(), f"readiness of {container['name']}")
        assert not self.is_gone(), self.log(container["name"])
        assert self.probe("livenessProbe")
        return self

    def is_gone(self):
        return ended(self.container_id) is not None

    def probe(self, kind):
        command = self.spec["containers"][0][kind]["exec"]["command"]
        return call("ExecSync", container_id=self.container_id, cmd=command, timeout=10).exit_code == 0

    def stop(self):
        """Ends the pod as the kubelet does."""
        Pod.running.remove(self)
        if hasattr(self, "container_id"):
            call("StopContainer", container_id=self.container_id, timeout=self.spec.get("terminationGracePeriodSeconds", 30))
        call("StopPodSandbox", pod_sandbox_id=self.id)
        call("RemovePodSandbox", pod_sandbox_id=self.id)


def ended(container_id):
    status = call("ContainerStatus", container_id=container_id).status
    return status if status.state == EXITED else None


def pairs(values):
    return [{"key": key, "value": value} for key, value in values.items()]


def seccomp_is_here():
    return "Seccomp:" in Path("/proc/self/status").read_text()


def start_containerd():
    """Debian's containerd, with NRI, and nothing that this place lacks."""
    version = subprocess.run(["containerd", "--version"], capture_output=True, text=True, check=True).stdout
    print(f"node: {version.strip()}")
    Path("/etc/containerd/config.toml").write_text(f"""version = 2
[plugins."io.containerd.nri.v1.nri"]
disable = false
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{BUSYBOX}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
""")
    log = Path("/tmp/containerd.log").open("w")
    daemon = subprocess.Popen(["containerd"], stdout=log, stderr=log)
    wait_for(lambda: subprocess.run(["ctr", "version"], capture_output=True, check=False).returncode == 0, "containerd")
    return daemon


def import_images(archive):
    """The image of the chart, under the name that the chart gives it, and one of busybox."""
    run = ["ctr", "--namespace", "k8s.io", "images"]
    subprocess.run([*run, "import", "--base-name", "localhost/oci-secrets", archive], check=True, stdout=subprocess.DEVNULL)
    names = subprocess.run([*run, "list", "--quiet"], capture_output=True, text=True, check=True).stdout
    (name,) = [name for name in names.splitlines() if name.startswith("localhost/oci-secrets:")]
    subprocess.run([*run, "tag", name, "localhost/oci-secrets:test"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["sh", "-ec", BUSYBOX_IMAGE, "sh", BUSYBOX], check=True, stdout=subprocess.DEVNULL)


BUSYBOX_IMAGE = """
cd "$(mktemp -d)"
mkdir -p rootfs/bin rootfs/tmp
cp /usr/bin/busybox rootfs/bin/
for name in sh cat sleep ls; do ln -s busybox rootfs/bin/$name; done
tar -C rootfs -cf layer.tar .
sum=$(sha256sum layer.tar | cut -d' ' -f1)
jq -n --arg sum "sha256:$sum" --arg architecture "$(dpkg --print-architecture)" '{$architecture, os: "linux",
    rootfs: {type: "layers", diff_ids: [$sum]}, config: {Env: ["PATH=/bin"], Entrypoint: ["sleep", "600"]}}' >config.json
jq -n --arg image "$1" '[{Config: "config.json", RepoTags: [$image], Layers: ["layer.tar"]}]' >manifest.json
tar -cf - config.json manifest.json layer.tar | ctr --namespace k8s.io images import -
"""


class ApiServer:
    """The API server, which knows the service accounts of pods."""

    def __init__(self, programs):
        self.files = Path("/tmp/api-server")
        self.files.mkdir()
        self.process, ready = start_stand_in(programs, "--tls", "--dir", self.files)
        self.url, self.admin, self.token = ready["kubernetes"], ready["kubernetes_admin_token"], ready["kubernetes_token"]
        self.ca = (self.files / "ca.pem").read_text()
        host, port = self.url.removeprefix("https://").split(":")
        Pod.api_server = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}

    def create_pod(self, namespace, name, service_account):
        """Creates a pod, and returns its uid."""
        pod = {"metadata": {"name": name}, "spec": {"serviceAccountName": service_account}}
        request = urllib.request.Request(
            f"{self.url}/api/v1/namespaces/{namespace}/pods",
            data=json.dumps(pod).encode(),
            headers={"Authorization": f"Bearer {self.admin}"},
        )
        context = ssl.create_default_context(cafile=self.files / "ca.pem")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        with opener.open(request) as answer:
            return json.load(answer)["metadata"]["uid"]


def start_stand_in(programs, *arguments):
    """Starts a stand-in, and returns it and its addresses."""
    process = subprocess.Popen([programs / "examples/stand-in", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return process, json.loads(process.stdout.readline())


def store_secret(programs, ready):
    """Seals a secret and stores it in Connect under each reference, as an operator does."""
    secret = f"canary-{os.urandom(8).hex()}"
    Path("/tmp/token").write_text(ready["token"])
    Path("/tmp/token").chmod(0o600)
    settings = Path("/tmp/settings.toml")
    settings.write_text(f"""keks = ["{KEK}"]
[connect]
url = "{ready["connect"]}"
token-file = "/tmp/token"
[gcp-kms]
endpoint = "{ready["kms"]}"
""")
    settings.chmod(0o600)
    for reference in [REFERENCE, BY_ACCOUNT]:
        command = [programs / "oci-secrets", "--settings", settings, "seal", "--kek", KEK, "--for", reference, "--write"]
        subprocess.run(command, input=secret.encode(), check=True, capture_output=True)
    return secret


KEK = "gcp-kms://projects/acme/locations/europe/keyRings/agents/cryptoKeys/prod"
REFERENCE = "op://AgentVault/database/password"
BY_ACCOUNT = "op://AgentVault/billing/password"
REQUEST = {"run.secrets/db": REFERENCE, "required-plugins.noderesource.dev": '["oci-secrets"]'}
CAT = {"name": "app", "image": BUSYBOX, "command": ["sh", "-c", "cat /run/secrets/db 2>/dev/null || echo no secret"]}


def app(annotations, namespace="agents", uid=None):
    """Runs a pod of a user, and returns what it printed, or why it did not start."""
    pod = Pod("app", namespace, annotations, {}, uid=uid)
    try:
        return pod.run(CAT).strip()
    except Failed as failed:
        return f"failed: {failed}"
    finally:
        pod.stop()


def main():
    archive, programs = sys.argv[1], Path(sys.argv[2])
    documents = json.load(sys.stdin)
    stand_in, ready = start_stand_in(programs)
    api_server = ApiServer(programs)
    containerd = start_containerd()
    try:
        import_images(archive)
        secret = store_secret(programs, ready)
        # The addresses of this place, in the settings of the release.
        settings = kubelet.by_name(documents, "ConfigMap")["oci-secrets"]["data"]
        settings["settings.toml"] = settings["settings.toml"].replace("http://127.0.0.1:1", ready["connect"]).replace("http://127.0.0.1:2", ready["kms"])
        data = {
            "connect-token": {"token": ready["token"]},
            "kube-root-ca.crt": {"ca.crt": api_server.ca},
            "tokens": {None: api_server.token},
        }
        story(documents, data, api_server, secret)
    finally:
        for pod in list(Pod.running):
            pod.stop()
        containerd.terminate()
        containerd.wait()


def story(documents, data, api_server, secret):
    """What happens to pods before the release is installed, while it is updated, and after it is uninstalled."""

    def daemon(name):
        template = kubelet.by_name(documents, "DaemonSet")[name]["spec"]["template"]
        return Pod(name, "oci-secrets", {}, template["spec"], documents, data)

    Path("/run/systemd/journal").mkdir(parents=True, exist_ok=True)
    expect("before the installation", app({}), "no secret")
    guard = daemon("oci-secrets-guard").begin()
    refusal = app(REQUEST)
    assert "cannot reach the broker at /run/oci-secrets/broker.sock" in refusal, refusal
    broker = daemon("oci-secrets").begin()
    expect("installed", app(REQUEST), secret)
    expect("installed, without a request", app({}), "no secret")
    text = app(REQUEST, "others")
    assert 'expected namespace "agents", found "others"' in text, text

    # What the API server says of a pod decides, and not what the pod says of itself.
    request = REQUEST | {"run.secrets/db": BY_ACCOUNT, "service-account": "billing"}
    expect("a pod of the service account", app(request, uid=api_server.create_pod("agents", "app", "billing")), secret)
    text = app(request, uid=api_server.create_pod("agents", "app", "other"))
    assert 'expected service account "billing", found "other"' in text, text
    assert "the identity of its pod is not known" in (text := app(request)), text
    print("ok  other pods do not start")

    # NRI creates a container without a plugin that does not answer. The guard still does, and its hook gets no answer from the broker.
    with stopped(broker.container_id):
        assert "did not answer" in (text := app(REQUEST)), text
    print("ok  a pod does not start while the broker is stopped")

    # An update: the new one is ready before the old one ends.
    other = daemon("oci-secrets").begin()
    expect("two brokers", app(REQUEST), secret)
    broker.stop()
    expect("updated broker", app(REQUEST), secret)
    daemon("oci-secrets-guard").begin()
    guard.stop()
    expect("updated guard", app(REQUEST), secret)

    # helm uninstall: the broker ends, the guard is kept.
    other.stop()
    refusal = app(REQUEST)
    assert "cannot reach the broker" in refusal and secret not in refusal, refusal
    expect("uninstalled, without a request", app({}), "no secret")
    print("ok  after the uninstallation a pod that requests secrets does not start")
    # Installed again.
    daemon("oci-secrets").begin()
    expect("installed again", app(REQUEST), secret)
    # Only the log of the pod that printed it has it.
    files = [path for path in Path("/var/lib/kubelet").rglob("*") if path.is_file() and path.name != "app.log"]
    assert files and not [path for path in files if secret.encode() in path.read_bytes()]


@contextlib.contextmanager
def stopped(container_id):
    """Stops the process of a container."""
    info = {pair.key: pair.value for pair in call("ContainerStatus", container_id=container_id, verbose=True).info}
    process = json.loads(info["info"])["pid"]
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def expect(when, found, expected):
    assert found == expected, f"{when}: {found}"
    print(f"ok  {when}: {'the secret' if found.startswith('canary') else found}")


main()
