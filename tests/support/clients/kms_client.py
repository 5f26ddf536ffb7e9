"""Drives the stand-in for Cloud KMS through Google's own client.

Usage: kms_client.py READY, where READY is the line of JSON that the stand-in prints.
Prints one line for each check and ends with an error at the first that fails.
"""

import json
import sys

from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceRestTransport
from google.iam.v1 import iam_policy_pb2
from google_crc32c import value as crc32c

READY = json.loads(sys.argv[1])
RING = "projects/p/locations/l/keyRings/r"
SECRET, AAD = b"a secret of some bytes", b"what it is for"

scheme, address = READY["kms"].split("://")
transport = KeyManagementServiceRestTransport(
    host=address, url_scheme=scheme, credentials=AnonymousCredentials()
)
client = kms_v1.KeyManagementServiceClient(transport=transport)


def key(name):
    return f"{RING}/cryptoKeys/{name}"


def check(name, condition):
    if not condition:
        sys.exit(f"not ok: {name}")
    print(f"ok: {name}")


def refused(name, kind, words, action, request):
    """Checks that an action ends in an error of this kind that contains these words."""
    try:
        action(request=request, retry=None)
    except kind as error:
        check(name, words in error.message)
    else:
        check(name, False)


def encrypt(name, plaintext=SECRET, aad=AAD):
    request = {
        "name": key(name),
        "plaintext": plaintext,
        "plaintext_crc32c": crc32c(plaintext),
        "additional_authenticated_data": aad,
        "additional_authenticated_data_crc32c": crc32c(aad),
    }
    return client.encrypt(request=request)


def sealed(name, ciphertext, aad=AAD):
    """The request to decrypt, with its sums."""
    return {
        "name": key(name),
        "ciphertext": ciphertext,
        "ciphertext_crc32c": crc32c(ciphertext),
        "additional_authenticated_data": aad,
        "additional_authenticated_data_crc32c": crc32c(aad),
    }


def encrypts_and_decrypts():
    answer = encrypt("good")
    check("names the version", answer.name == key("good") + "/cryptoKeyVersions/1")
    check("verifies sums", answer.verified_plaintext_crc32c and answer.verified_additional_authenticated_data_crc32c)
    check("sums the ciphertext", answer.ciphertext_crc32c == crc32c(answer.ciphertext))
    opened = client.decrypt(request=sealed("good", answer.ciphertext))
    check("decrypts", opened.plaintext == SECRET and opened.used_primary)
    check("sums the plaintext", opened.plaintext_crc32c == crc32c(SECRET))
    empty = client.decrypt(request=sealed("good", encrypt("good", b"", b"").ciphertext, b""))
    check("decrypts nothing", empty.plaintext == b"")
    level = encrypt("hsm-key").protection_level
    check("returns the protection level", level == kms_v1.ProtectionLevel.HSM)


def rotates():
    old = encrypt("rotated").ciphertext
    version = client.create_crypto_key_version(request={"parent": key("rotated")})
    check("creates a version", version.name.endswith("/cryptoKeyVersions/2"))
    check("still encrypts with the primary", encrypt("rotated").name.endswith("/1"))
    client.update_crypto_key_primary_version(request={"name": key("rotated"), "crypto_key_version_id": "2"})
    check("encrypts with the new primary", encrypt("rotated").name.endswith("/2"))
    opened = client.decrypt(request=sealed("rotated", old))
    check("decrypts what an older version sealed", opened.plaintext == SECRET and not opened.used_primary)
    versions = list(client.list_crypto_key_versions(request={"parent": key("rotated")}))
    check("lists versions", len(versions) == 2)


def refuses():
    good = encrypt("good").ciphertext
    decrypt, invalid = client.decrypt, exceptions.BadRequest
    refused("other associated data", invalid, "verify that 'name'", decrypt, sealed("good", good, b"other"))
    refused("another key", invalid, "verify that 'name'", decrypt, sealed("other", good))
    refused("a foreign ciphertext", invalid, "ciphertext is invalid", decrypt, sealed("good", b"foreign"))
    tampered = good[:-1] + bytes([good[-1] ^ 1])
    refused("a changed ciphertext", invalid, "verify that 'name'", decrypt, sealed("good", tampered))
    wrong = sealed("good", good) | {"ciphertext_crc32c": 1}
    refused("a wrong sum", invalid, "checksum in field ciphertext_crc32c", decrypt, wrong)
    large = {"name": key("good"), "plaintext": bytes(65537)}
    refused("a large plaintext", invalid, "too large", client.encrypt, large)
    for state in ("disabled", "destroyed"):
        refused(f"a {state} key", invalid, state.upper(), client.encrypt, {"name": key(state), "plaintext": SECRET})
    later = encrypt("decrypt-disabled").ciphertext
    refused("a key disabled since", invalid, "is not enabled", decrypt, sealed("decrypt-disabled", later))
    refused("denied", exceptions.Forbidden, "useToDecrypt", decrypt, sealed("denied", good))
    refused("no such key", exceptions.NotFound, "not found", decrypt, sealed("missing", good))
    refused("not available", exceptions.ServiceUnavailable, "", decrypt, sealed("status-503", good))
    once = sealed("decrypt-status-503-once", encrypt("decrypt-status-503-once").ciphertext)
    refused("once", exceptions.ServiceUnavailable, "", decrypt, once)
    check("and not again", client.decrypt(request=once).plaintext == SECRET)


def corrupts():
    opened = client.decrypt(request=sealed("wrong-crc", encrypt("wrong-crc").ciphertext))
    check("a wrong sum of the plaintext", opened.plaintext == SECRET and opened.plaintext_crc32c != crc32c(SECRET))
    opened = client.decrypt(request=sealed("flip", encrypt("flip").ciphertext))
    check("a flipped plaintext", opened.plaintext != SECRET and opened.plaintext_crc32c == crc32c(SECRET))
    check("unverified sums", not encrypt("unverified-crc").verified_plaintext_crc32c)
    answer = encrypt("wrong-ciphertext-crc")
    check("a wrong sum of the ciphertext", answer.ciphertext_crc32c != crc32c(answer.ciphertext))


def describes_keys():
    found = client.get_crypto_key(request={"name": key("good")})
    check("describes a key", found.primary.state == kms_v1.CryptoKeyVersion.CryptoKeyVersionState.ENABLED)
    disabled = client.get_crypto_key(request={"name": key("disabled")})
    check("describes a disabled key", disabled.primary.state == kms_v1.CryptoKeyVersion.CryptoKeyVersionState.DISABLED)
    permissions = ["cloudkms.cryptoKeyVersions.useToDecrypt"]
    for name, expected in (("good", permissions), ("denied", [])):
        request = iam_policy_pb2.TestIamPermissionsRequest(resource=key(name), permissions=permissions)
        check(f"permissions of {name}", list(client.test_iam_permissions(request=request).permissions) == expected)


if __name__ == "__main__":
    for part in (encrypts_and_decrypts, rotates, refuses, corrupts, describes_keys):
        part()
