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
from google.protobuf import descriptor_pb2, json_format, message_factory

PATIENCE_SECONDS = 30
SERVICE = "runtime.v1.RuntimeService"
NODE, EXITED = 2, 2
USER, GROUP = 1000, 1001

# The messages, as far as they are used: number, type and name of each field; a type with * is repeated.
MESSAGES = {
    "Pair": "1 string key, 2 string value",
    "Number": "1 int64 value",
    "PodMetadata": "1 string name, 2 string uid, 3 string namespace",
    "Namespaces": "1 int32 network",
    "PodSecurity": "1 Namespaces namespace_options",
    "LinuxPod": "2 PodSecurity security_context",
    "Pod": "1 PodMetadata metadata, 3 string log_directory, 7 Pair* annotations, 8 LinuxPod linux",
    "ContainerMetadata": "1 string name, 2 uint32 attempt",
    "Image": "1 string image",
    "Mount": "1 string container_path, 2 string host_path",
    "Security": "3 Namespaces namespace_options, 5 Number run_as_user, 12 Number run_as_group",
    "LinuxContainer": "2 Security security_context",
    "Container": "1 ContainerMetadata metadata, 2 Image image, 3 string* command, 7 Mount* mounts, "
    "11 string log_path, 15 LinuxContainer linux",
    "Status": "3 int32 state, 7 int32 exit_code",
    "RunPodSandboxRequest": "1 Pod config, 2 string runtime_handler",
    "RunPodSandboxResponse": "1 string pod_sandbox_id",
    "CreateContainerRequest": "1 string pod_sandbox_id, 2 Container config, 3 Pod sandbox_config",
    "CreateContainerResponse": "1 string container_id",
    "StartContainerRequest": "1 string container_id",
    "StartContainerResponse": "",
    "ContainerStatusRequest": "1 string container_id",
    "ContainerStatusResponse": "1 Status status",
    "StopPodSandboxRequest": "1 string pod_sandbox_id",
    "StopPodSandboxResponse": "",
    "RemovePodSandboxRequest": "1 string pod_sandbox_id",
    "RemovePodSandboxResponse": "",
}


def classes():
    """The message classes, by name."""
    field_type = descriptor_pb2.FieldDescriptorProto
    scalars = {"string": field_type.TYPE_STRING, "int32": field_type.TYPE_INT32, "int64": field_type.TYPE_INT64,
               "uint32": field_type.TYPE_UINT32}
    file = descriptor_pb2.FileDescriptorProto(name="cri.proto", package="cri", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in filter(None, fields.split(", ")):
            number, kind, field_name = text.split()
            field = message.field.add(name=field_name, number=int(number))
            repeated, kind = kind.endswith("*"), kind.rstrip("*")
            field.label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            field.type = scalars.get(kind, field_type.TYPE_MESSAGE)
            if kind not in scalars:
                field.type_name = f".cri.{kind}"
    return {name.removeprefix("cri."): made for name, made in message_factory.GetMessages([file]).items()}


CLASSES = classes()
channel = grpc.insecure_channel(f"unix://{sys.argv[1]}")


def call(method, **request):
    """One call, by its name; fields of the answer are attributes."""
    ask = channel.unary_unary(
        f"/{SERVICE}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=CLASSES[f"{method}Response"].FromString,
    )
    message = json_format.ParseDict(request, CLASSES[f"{method}Request"]())
    return ask(message, timeout=PATIENCE_SECONDS, wait_for_ready=True)


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
