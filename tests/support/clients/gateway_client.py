"""Drives the gateway through 1Password's own client, which holds an identity token in place of a Connect token.

Usage: gateway_client.py READY, where READY is a JSON object with `connect`, the URL of the gateway, and `token`.
Prints one line for each check and ends with an error at the first that fails.
"""

import json
import sys

from onepasswordconnectsdk import load_dict
from onepasswordconnectsdk.client import new_client
from onepasswordconnectsdk.errors import FailedToRetrieveItemException, FailedToRetrieveVaultException

READY = json.loads(sys.argv[1])
AGENT_VAULT = "agentvault0000000000000000"
SHAPES = "shapes00000000000000000000"

client = new_client(READY["connect"], READY["token"])


def check(name, condition):
    if not condition:
        sys.exit(f"not ok: {name}")
    print(f"ok: {name}")


def refused(name, part, action, *arguments):
    """Checks that an action ends in an error with this in its text."""
    try:
        action(*arguments)
    except (FailedToRetrieveItemException, FailedToRetrieveVaultException) as error:
        check(name, part in str(error))
    else:
        check(name, False)


def reads():
    check("lists the vaults of its rule", [vault.name for vault in client.get_vaults()] == ["AgentVault", "Shapes"])
    check("finds a vault by name", client.get_vault_by_title("AgentVault").id == AGENT_VAULT)
    check("lists the items of its rule", {item.title for item in client.get_items(AGENT_VAULT)} == {"deploy", "ordinary"})
    item = client.get_item("deploy", "AgentVault")
    check("reads an item by names", {field.label: field.value for field in item.fields}["password"] == "canary-seen")
    check("reads an item by id", client.get_item(item.id, AGENT_VAULT).title == "deploy")
    check("sees the fields of its rule", [field.label for field in client.get_item("ordinary", AGENT_VAULT).fields] == ["username"])
    values = load_dict(client, {"key": {"opitem": "deploy", "opfield": "prod.key", "opvault": AGENT_VAULT}})
    check("loads a field of a section", values["key"] == "canary-seen")


def reads_files():
    item = client.get_item("files", SHAPES)
    files = client.get_files(item.id, SHAPES)
    check("sees the files of its rule", [file.name for file in files] == ["text.txt"])
    file = files[0]
    content = client.get_file_content(file.id, item.id, SHAPES, file.content_path)
    check("reads a file", content == b"The content of a text file.\n")


def is_refused():
    refused("a vault that is out of scope", "Found 0 vaults", client.get_vault_by_title, "Duplicates")
    refused("an item that is out of scope", "Found 0 items", client.get_item, "hidden", AGENT_VAULT)
    refused("a token with another signature", "401", new_client(READY["connect"], READY["token"][:-8]).get_vaults)
    refused("a change", "405", client.delete_item, client.get_item("deploy", AGENT_VAULT).id, AGENT_VAULT)


if __name__ == "__main__":
    for part in (reads, reads_files, is_refused):
        part()
