"""Serves AWS as moto has it, until standard input is closed.

Prints one line of JSON when it is ready: its URL, two keys and an alias of the first. Everyone may do everything.
"""

import json
import logging
import sys

import boto3
from moto.server import ThreadedMotoServer

REGION = "eu-central-1"


def main():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    kms = boto3.client(
        "kms", endpoint_url=url, region_name=REGION, aws_access_key_id="nobody", aws_secret_access_key="nothing"
    )
    keys = [kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2)]
    alias = "alias/agents/prod"
    kms.create_alias(AliasName=alias, TargetKeyId=keys[0])
    alias = keys[0].rsplit(":", 1)[0] + ":" + alias
    print(json.dumps({"url": url, "keys": keys, "alias": alias}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
