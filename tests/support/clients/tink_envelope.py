"""Seals and opens envelopes with Google's Tink.

Usage: tink_envelope.py seal|open KEK ASSOCIATED_DATA --gcp URL --aws URL --keks DIRECTORY

Reads the secret on standard input and writes the envelope in base64, or the other way round. A KEK is `gcp-kms://…` or
`aws-kms://…`, which the KMS at a URL has, or `local-kek:<name>`, the file of this name in DIRECTORY. The DEK is an AES-256-GCM key.
"""

import argparse
import base64
import os
import pathlib
import sys

import boto3
import tink
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceRestTransport
from tink import aead
from tink.integration import awskms

CLOUD_KMS, AWS_KMS, KEY_FILE = "gcp-kms://", "aws-kms://", "local-kek:"
IV_BYTES = 12


class CloudKms(aead.Aead):
    """A key of Cloud KMS, through Google's own client."""

    def __init__(self, url, name):
        scheme, host = url.split("://")
        transport = KeyManagementServiceRestTransport(host=host, url_scheme=scheme, credentials=AnonymousCredentials())
        self.client = kms_v1.KeyManagementServiceClient(transport=transport)
        self.name = name

    def encrypt(self, plaintext, associated_data):
        request = {"name": self.name, "plaintext": plaintext, "additional_authenticated_data": associated_data}
        return self.client.encrypt(request=request).ciphertext

    def decrypt(self, ciphertext, associated_data):
        request = {"name": self.name, "ciphertext": ciphertext, "additional_authenticated_data": associated_data}
        return self.client.decrypt(request=request).plaintext


class KeyFile(aead.Aead):
    """A file of 32 bytes, which is an AES-256-GCM key."""

    def __init__(self, path):
        self.key = AESGCM(path.read_bytes())

    def encrypt(self, plaintext, associated_data):
        iv = os.urandom(IV_BYTES)
        return iv + self.key.encrypt(iv, plaintext, associated_data)

    def decrypt(self, ciphertext, associated_data):
        try:
            return self.key.decrypt(ciphertext[:IV_BYTES], ciphertext[IV_BYTES:], associated_data)
        except InvalidTag as error:
            raise tink.TinkError("the key file does not open it") from error


class KmsClient(tink.KmsClient):
    """The client that Tink uses for the KEK of a URI."""

    def __init__(self, arguments):
        self.arguments = arguments

    def does_support(self, key_uri):
        return key_uri.startswith((CLOUD_KMS, AWS_KMS, KEY_FILE))

    def get_aead(self, key_uri):
        if key_uri.startswith(CLOUD_KMS):
            return CloudKms(self.arguments.gcp, key_uri.removeprefix(CLOUD_KMS))
        if key_uri.startswith(AWS_KMS):
            return self.aws(key_uri.split(":")[4]).get_aead(key_uri)
        return KeyFile(self.arguments.keks / key_uri.removeprefix(KEY_FILE))

    def aws(self, region):
        """Tink's own client, with a client of AWS."""
        client = boto3.client(
            "kms",
            endpoint_url=self.arguments.aws,
            region_name=region,
            aws_access_key_id="nobody",
            aws_secret_access_key="nothing",
        )
        return awskms.new_client(boto3_client=client)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["seal", "open"])
    parser.add_argument("kek")
    parser.add_argument("associated_data", type=str.encode)
    parser.add_argument("--gcp")
    parser.add_argument("--aws")
    parser.add_argument("--keks", type=pathlib.Path)
    arguments = parser.parse_args()

    aead.register()
    kek = KmsClient(arguments).get_aead(arguments.kek)
    envelope = aead.KmsEnvelopeAead(aead.aead_key_templates.AES256_GCM, kek)
    given = sys.stdin.buffer.read()
    try:
        if arguments.action == "seal":
            sys.stdout.buffer.write(base64.b64encode(envelope.encrypt(given, arguments.associated_data)))
        else:
            sys.stdout.buffer.write(envelope.decrypt(base64.b64decode(given), arguments.associated_data))
    except tink.TinkError as error:
        sys.exit(f"Tink refuses: {error}")


if __name__ == "__main__":
    main()
