"""Serves the AWS of moto until standard input is closed.

Usage: moto_server.py [--https ADDRESS:PORT PEM --log FILE]

Prints one line of JSON when it is ready: its URL, two keys and an alias of the first. Everyone may do everything. It can also be served
by https, with a certificate and its key in PEM. The log has a line for every request that is signed there: the service, and the id of
the key that signed it.
"""

import argparse
import json
import logging
import re
import ssl
import sys
import threading

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

REGION = "eu-central-1"
SIGNATURE = re.compile(r"Credential=([^/]+)/[^/]+/[^/]+/([^/]+)/")


def logged(application, path):
    """The same application, which records the signer of each request in a file."""

    def answer(environ, start_response):
        signature = SIGNATURE.search(environ.get("HTTP_AUTHORIZATION", ""))
        if signature:
            with open(path, "a") as log:
                log.write(f"{signature[2]} {signature[1]}\n")
        return application(environ, start_response)

    return answer


def serve(application, address, tls=None):
    host, port = address.split(":")
    server = make_server(host, int(port), application, True, request_handler=MotoRequestHandler, ssl_context=tls)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return "http://{}:{}".format(*server.server_address)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--https", nargs=2)
    parser.add_argument("--log")
    arguments = parser.parse_args()

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = DomainDispatcherApplication(create_backend_app)
    url = serve(moto, "127.0.0.1:0")
    if arguments.https:
        address, pem = arguments.https
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pem)
        serve(logged(moto, arguments.log), address, tls)

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
