"""Encrypts standard input by a KMS's own client, and writes the ciphertext in base64.

Usage: kms_encrypt.py gcp|aws URL KEY ASSOCIATED_DATA

It does what `gcloud kms encrypt --additional-authenticated-data-file` and `aws kms encrypt --encryption-context` do.
"""

import base64
import sys

import boto3
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceRestTransport


def main():
    kind, url, key, associated_data = sys.argv[1:]
    secret = sys.stdin.buffer.read()
    if kind == "gcp":
        scheme, host = url.split("://")
        transport = KeyManagementServiceRestTransport(host=host, url_scheme=scheme, credentials=AnonymousCredentials())
        client = kms_v1.KeyManagementServiceClient(transport=transport)
        request = {"name": key, "plaintext": secret, "additional_authenticated_data": associated_data.encode()}
        ciphertext = client.encrypt(request=request).ciphertext
    else:
        region = key.split(":")[3]
        client = boto3.client(
            "kms", endpoint_url=url, region_name=region, aws_access_key_id="nobody", aws_secret_access_key="nothing"
        )
        context = {"associated-data": associated_data}
        ciphertext = client.encrypt(KeyId=key, Plaintext=secret, EncryptionContext=context)["CiphertextBlob"]
    sys.stdout.write(base64.b64encode(ciphertext).decode())


if __name__ == "__main__":
    main()
