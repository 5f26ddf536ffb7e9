"""Runs a pod as the kubelet does: through the Container Runtime Interface of an engine.

Needs Debian's python3-grpcio. Usage: cri_client.py SOCKET, with the pod on standard input, as JSON:
    {"name", "handler", "annotations": {}, "image", "mounts": {path on the host: path in the container},
     "containers": {name: [command, argument, ...]}, "stays": bool}
Containers run one after the other. `app#1` is the second attempt of the container `app`.
Prints what became of it, as JSON: {"sandbox": error or null, "containers": {name: {"error"} or {"exit", "log"}}}.
Afterwards nothing is left of the pod, unless it stays: then its containers run on, and {"id"} is printed of each.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import grpc
from cri import connect

PATIENCE_SECONDS = 30
NODE, EXITED = 2, 2
USER, GROUP = 1000, 1001

call = connect(sys.argv[1])


def run(sandbox, pod, config, stays):
    """Runs one container, to its end unless it stays."""
    try:
        container = call("CreateContainer", pod_sandbox_id=sandbox, config=config, sandbox_config=pod).container_id
        call("StartContainer", container_id=container)
    except grpc.RpcError as error:
        return {"error": error.details()}
    if stays:
        return {"id": container}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (status := call("ContainerStatus", container_id=container).status).state != EXITED:
        if time.monotonic() > deadline:
            return {"error": "it does not end"}
        time.sleep(0.05)
    # Each line: time, stream, whether it is whole, text.
    lines = (Path(pod["log_directory"]) / config["log_path"]).read_text().splitlines()
    return {"exit": status.exit_code, "log": [line.split(" ", 3)[3] for line in lines]}


def main():
    wish = json.load(sys.stdin)
    host_network = {"namespace_options": {"network": NODE}}
    with tempfile.TemporaryDirectory() as logs:
        pod = {
            "metadata": {"name": wish["name"], "uid": wish["name"], "namespace": "agents"},
            "log_directory": logs,
            "annotations": [{"key": key, "value": value} for key, value in wish["annotations"].items()],
            "linux": {"security_context": host_network},
        }
        try:
            sandbox = call("RunPodSandbox", config=pod, runtime_handler=wish["handler"]).pod_sandbox_id
        except grpc.RpcError as error:
            print(json.dumps({"sandbox": error.details(), "containers": {}}))
            return
        security = host_network | {"run_as_user": {"value": USER}, "run_as_group": {"value": GROUP}}
        mounts = [{"host_path": host, "container_path": path} for host, path in wish["mounts"].items()]
        containers = {}
        for key, command in wish["containers"].items():
            name, _, attempt = key.partition("#")
            config = {
                "metadata": {"name": name, "attempt": int(attempt or 0)},
                "image": {"image": wish["image"]},
                "command": command,
                "mounts": mounts,
                "log_path": f"{key}.log",
                "linux": {"security_context": security},
            }
            containers[key] = run(sandbox, pod, config, wish.get("stays"))
        if not wish.get("stays"):
            call("StopPodSandbox", pod_sandbox_id=sandbox)
            call("RemovePodSandbox", pod_sandbox_id=sandbox)
        print(json.dumps({"sandbox": None, "containers": containers}))


main()
