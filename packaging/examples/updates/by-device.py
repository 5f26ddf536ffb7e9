#!/usr/bin/env python3
"""Reads its secrets again when their directory has another device number: by-device.py [DIRECTORY]

For a container with run.secrets.update=live. It needs no signal.
"""

import os
import sys
import time

DIRECTORY = sys.argv[1] if len(sys.argv) > 1 else "/run/secrets"
PERIOD_SECONDS = 0.2


def load():
    """Returns the device number of the set, and each file of it: all by one descriptor, so that they belong together."""
    directory = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY)
    try:
        secrets = {}
        for name in os.listdir(directory):
            with open(os.open(name, os.O_RDONLY, dir_fd=directory), "rb") as file:
                secrets[name] = file.read()
        return os.fstat(directory).st_dev, secrets
    finally:
        os.close(directory)


device = None
while True:
    if os.stat(DIRECTORY).st_dev != device:
        device, secrets = load()
        print(f"loaded {sum(map(len, secrets.values()))} bytes", flush=True)
    time.sleep(PERIOD_SECONDS)
