"""The Container Runtime Interface of an engine, as far as tests use it. Needs Debian's python3-grpcio."""

import grpc
from google.protobuf import descriptor_pb2, json_format, message_factory

SERVICE = "runtime.v1.RuntimeService"
WAIT_SECONDS = 60

# The messages, as far as they are used: number, type and name of each field; a type with * is repeated.
MESSAGES = {
    "Pair": "1 string key, 2 string value",
    "Number": "1 int64 value",
    "PodMetadata": "1 string name, 2 string uid, 3 string namespace",
    "Namespaces": "1 int32 network, 2 int32 pid",
    "PodSecurity": "1 Namespaces namespace_options",
    "LinuxPod": "2 PodSecurity security_context",
    "Pod": "1 PodMetadata metadata, 3 string log_directory, 6 Pair* labels, 7 Pair* annotations, 8 LinuxPod linux",
    "ContainerMetadata": "1 string name, 2 uint32 attempt",
    "Image": "1 string image",
    "Mount": "1 string container_path, 2 string host_path, 3 bool readonly",
    "Capabilities": "1 string* add_capabilities, 2 string* drop_capabilities",
    "Profile": "1 int32 profile_type",
    "Security": "1 Capabilities capabilities, 3 Namespaces namespace_options, 5 Number run_as_user, 7 bool readonly_rootfs, "
    "12 Number run_as_group, 15 Profile seccomp, 16 Profile apparmor",
    "LinuxContainer": "2 Security security_context",
    "Container": "1 ContainerMetadata metadata, 2 Image image, 3 string* command, 6 Pair* envs, 7 Mount* mounts, 9 Pair* labels, "
    "11 string log_path, 15 LinuxContainer linux",
    "Status": "3 int32 state, 7 int32 exit_code",
    "RunPodSandboxRequest": "1 Pod config, 2 string runtime_handler",
    "RunPodSandboxResponse": "1 string pod_sandbox_id",
    "CreateContainerRequest": "1 string pod_sandbox_id, 2 Container config, 3 Pod sandbox_config",
    "CreateContainerResponse": "1 string container_id",
    "StartContainerRequest": "1 string container_id",
    "StartContainerResponse": "",
    "ContainerStatusRequest": "1 string container_id, 2 bool verbose",
    # A map is such a list.
    "ContainerStatusResponse": "1 Status status, 2 Pair* info",
    "ExecSyncRequest": "1 string container_id, 2 string* cmd, 3 int64 timeout",
    "ExecSyncResponse": "1 bytes stdout, 2 bytes stderr, 3 int32 exit_code",
    "StopContainerRequest": "1 string container_id, 2 int64 timeout",
    "StopContainerResponse": "",
    "StopPodSandboxRequest": "1 string pod_sandbox_id",
    "StopPodSandboxResponse": "",
    "RemovePodSandboxRequest": "1 string pod_sandbox_id",
    "RemovePodSandboxResponse": "",
}


def classes():
    """The message classes, by name."""
    scalars = {name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}") for name in ["string", "int32", "int64", "uint32", "bool", "bytes"]}
    file = descriptor_pb2.FileDescriptorProto(name="cri.proto", package="cri", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in filter(None, fields.split(", ")):
            number, kind, field_name = text.split()
            field = message.field.add(name=field_name, number=int(number), label=3 if kind.endswith("*") else 1)
            kind = kind.rstrip("*")
            if kind in scalars:
                field.type = scalars[kind]
            else:
                field.type, field.type_name = field.TYPE_MESSAGE, f".cri.{kind}"
    return {name.removeprefix("cri."): made for name, made in message_factory.GetMessages([file]).items()}


CLASSES = classes()


def connect(socket):
    """A function that makes one call, by its name; fields of the answer are attributes."""
    channel = grpc.insecure_channel(f"unix://{socket}")

    def call(method, **request):
        ask = channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=CLASSES[f"{method}Response"].FromString,
        )
        message = json_format.ParseDict(request, CLASSES[f"{method}Request"]())
        return ask(message, timeout=WAIT_SECONDS, wait_for_ready=True)

    return call
