"""Drives the stand-in for Google's identity endpoints and metadata server through Google's own library.

Usage: identity_client.py READY, where READY is the line of JSON that the stand-in prints when it is started with
`--dir DIR --service-account --kms-auth`: Cloud KMS must accept each identity, too.
Prints one line for each check and ends with an error at the first that fails.
"""

import json
import os
import pathlib
import socket
import sys

READY = json.loads(sys.argv[1])
os.environ["GCE_METADATA_HOST"] = os.environ["GCE_METADATA_IP"] = READY["metadata"].removeprefix("http://")

import requests
from google.auth import compute_engine, identity_pool, impersonated_credentials
from google.auth.exceptions import OAuthError, RefreshError
from google.auth.transport.requests import AuthorizedSession, Request
from google.oauth2 import service_account

DIR = pathlib.Path(READY["dir"])
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
KEY = READY["kms"] + "/v1/projects/p/locations/l/keyRings/r/cryptoKeys/k"

# Google's library also sends the token to hosts of its own, in the background: nothing may leave this machine.
resolve = socket.getaddrinfo


def resolve_loopback(host, *arguments, **options):
    if host not in ("127.0.0.1", "localhost"):
        raise socket.gaierror(socket.EAI_NONAME, "only loopback")
    return resolve(host, *arguments, **options)


socket.getaddrinfo = resolve_loopback


def check(name, condition):
    if not condition:
        sys.exit(f"not ok: {name}")
    print(f"ok: {name}")


def credentials(name, **changes):
    """The credentials of a file that the stand-in wrote, with some of its members changed."""
    info = json.loads((DIR / name).read_text()) | changes
    if info["type"] == "service_account":
        return service_account.Credentials.from_service_account_info(info, scopes=SCOPES)
    return identity_pool.Credentials.from_info(info, scopes=SCOPES)


def accepted(name, kind, identity):
    identity.refresh(Request())
    check(f"{name}: a token", identity.token.startswith(f"ya29.standin-access-token-{kind}-"))
    answer = AuthorizedSession(identity).post(KEY + ":encrypt", json={"plaintext": "YQ=="})
    check(f"{name}: Cloud KMS accepts it", answer.status_code == 200)


def refused(name, words, identity):
    try:
        identity.refresh(Request())
    except (OAuthError, RefreshError) as error:
        check(name, words in str(error))
    else:
        check(name, False)


def gives_tokens():
    accepted("service account", "assertion", credentials("service-account.json"))
    accepted("federation from a file", "federated", credentials("external-account-file.json"))
    accepted("federation from a URL", "federated", credentials("external-account-url.json"))
    accepted("federation, then impersonation", "impersonated", credentials("external-account-impersonated.json"))
    accepted("metadata server", "metadata", compute_engine.Credentials())

    source = credentials("external-account-file.json")
    target = "agents@stand-in.iam.gserviceaccount.com"
    url = json.loads((DIR / "impersonated.json").read_text())["service_account_impersonation_url"]
    options = {"target_scopes": SCOPES, "iam_endpoint_override": url}
    accepted("impersonation", "impersonated", impersonated_credentials.Credentials(source, target, **options))
    options["iam_endpoint_override"] = url.replace("agents@", "denied@")
    refused("impersonation that is denied", "PERMISSION_DENIED", impersonated_credentials.Credentials(source, target, **options))


def signs_its_own_tokens():
    identity = credentials("service-account.json").with_always_use_jwt_access(True)
    answer = AuthorizedSession(identity).post(KEY + ":encrypt", json={"plaintext": "YQ=="})
    check("a token that the service account signed itself", answer.status_code == 200)


def refuses():
    wrong = DIR / "another-subject-token"
    wrong.write_text("foreign")
    source = {"credential_source": {"file": str(wrong)}}
    refused("another subject token", "invalid_grant", credentials("external-account-file.json", **source))
    audience = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/another/providers/p"
    refused("another audience", "invalid_target", credentials("external-account-file.json", audience=audience))
    url = {"credential_source": {"url": READY["identity"] + "/subject-token"}}
    refused("a subject token without the required header", "Unable to retrieve", credentials("external-account-url.json", **url))
    other = {"client_email": "other@stand-in.iam.gserviceaccount.com"}
    refused("another service account", "invalid_grant", credentials("service-account.json", **other))
    good = json.loads((DIR / "external-account-file.json").read_text())["audience"]
    provider = good.rsplit("/", 1)[0] + "/status-400"
    refused("what a fault's name asks for", "server_error", credentials("external-account-file.json", audience=provider))
    for name, headers in (("no token", {}), ("a wrong token", {"Authorization": "Bearer standin"})):
        answer = requests.post(KEY + ":encrypt", json={"plaintext": "YQ=="}, headers=headers)
        check(f"Cloud KMS refuses {name}", answer.status_code == 401)
    answer = requests.get(READY["metadata"] + "/computeMetadata/v1/universe/universe-domain")
    check("the metadata server refuses requests without its header", answer.status_code == 403)


if __name__ == "__main__":
    for part in (gives_tokens, signs_its_own_tokens, refuses):
        part()
