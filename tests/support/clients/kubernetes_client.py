"""Drives the stand-in for the API server through the official client of Kubernetes.

Usage: kubernetes_client.py READY, where READY is the line of JSON that the stand-in prints.
Prints one line for each check and ends with an error at the first that fails.
"""

import json
import pathlib
import sys

from kubernetes import client
from kubernetes.client.exceptions import ApiException

READY = json.loads(sys.argv[1])


def api(token):
    configuration = client.Configuration(host=READY["kubernetes"])
    configuration.ssl_ca_cert = str(pathlib.Path(READY["dir"]) / "ca.pem")
    configuration.api_key = {"authorization": f"Bearer {token}"}
    configuration.no_proxy = "*"
    return client.CoreV1Api(client.ApiClient(configuration))


broker, admin = api(READY["kubernetes_token"]), api(READY["kubernetes_admin_token"])


def check(name, condition):
    if not condition:
        sys.exit(f"not ok: {name}")
    print(f"ok: {name}")


def refused(name, status, reason, action, *arguments):
    """Checks that an action ends in an error of the API with this status and reason."""
    try:
        action(*arguments)
    except ApiException as error:
        check(name, error.status == status and json.loads(error.body)["reason"] == reason)
    else:
        check(name, False)


def pod(name, **spec):
    containers = [client.V1Container(name="app", image="busybox")]
    metadata = client.V1ObjectMeta(name=name, labels={"app": "billing"})
    return client.V1Pod(metadata=metadata, spec=client.V1PodSpec(containers=containers, **spec))


def reads_what_was_created():
    created = admin.create_namespaced_pod("agents", pod("billing-0", service_account_name="billing"))
    read = broker.read_namespaced_pod("billing-0", "agents")
    check("the uid stays", read.metadata.uid and read.metadata.uid == created.metadata.uid)
    check("name and namespace", (read.metadata.name, read.metadata.namespace) == ("billing-0", "agents"))
    check("the service account", read.spec.service_account_name == "billing")
    check("the labels", read.metadata.labels == {"app": "billing"})
    check("the kind", (read.kind, read.api_version) == ("Pod", "v1"))
    admin.create_namespaced_pod("agents", pod("plain"))
    check("a default service account", broker.read_namespaced_pod("plain", "agents").spec.service_account_name == "default")


def gives_another_uid_to_another_pod():
    before = broker.read_namespaced_pod("billing-0", "agents").metadata.uid
    admin.delete_namespaced_pod("billing-0", "agents")
    refused("a deleted pod", 404, "NotFound", broker.read_namespaced_pod, "billing-0", "agents")
    after = admin.create_namespaced_pod("agents", pod("billing-0", service_account_name="billing"))
    check("another uid", after.metadata.uid != before)


def refuses():
    refused("no such pod", 404, "NotFound", broker.read_namespaced_pod, "none", "agents")
    refused("a namespace without a role", 403, "Forbidden", broker.read_namespaced_pod, "x", "forbidden")
    refused("another verb", 403, "Forbidden", broker.delete_namespaced_pod, "billing-0", "agents")
    refused("a list", 403, "Forbidden", broker.list_namespaced_pod, "agents")
    refused("another token", 401, "Unauthorized", api("foreign").read_namespaced_pod, "billing-0", "agents")
    refused("what a fault's name asks for", 503, "", broker.read_namespaced_pod, "status-503", "agents")


if __name__ == "__main__":
    for part in (reads_what_was_created, gives_another_uid_to_another_pod, refuses):
        part()
