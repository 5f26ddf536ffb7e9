"""Drives the stand-in for 1Password Connect through 1Password's own client.

Usage: connect_client.py READY, where READY is the line of JSON that the stand-in prints.
Prints one line for each check and ends with an error at the first that fails.
"""

import json
import sys

import httpx
from onepasswordconnectsdk.client import new_client
from onepasswordconnectsdk.errors import FailedToRetrieveItemException, FailedToRetrieveVaultException
from onepasswordconnectsdk.models import Field, Item, ItemVault

READY = json.loads(sys.argv[1])
AGENT_VAULT = "agentvault0000000000000000"
DUPLICATES = "duplicates0000000000000000"
FAULTS = "faults00000000000000000000"
SHAPES = "shapes00000000000000000000"

client = new_client(READY["connect"], READY["token"])
limited = new_client(READY["connect"], READY["limited_token"])


def check(name, condition):
    if not condition:
        sys.exit(f"not ok: {name}")
    print(f"ok: {name}")


def refused(name, status, action, *arguments):
    """Checks that an action ends in an error that has the HTTP status."""
    try:
        action(*arguments)
    except (FailedToRetrieveItemException, FailedToRetrieveVaultException) as error:
        check(name, f"Received {status}" in str(error))
    else:
        check(name, False)


def found(name, count, action, *arguments):
    """Checks that a search ends in an error that has their number."""
    try:
        action(*arguments)
    except FailedToRetrieveItemException as error:
        check(name, str(error).startswith(f"Found {count} "))
    else:
        check(name, False)


def reads_vaults():
    names = [vault.name for vault in client.get_vaults()]
    check("lists every vault", names.count("Twins") == 2 and {"AgentVault", "Faults"} <= set(names))
    check("a limited token sees one vault", [vault.name for vault in limited.get_vaults()] == ["AgentVault"])
    check("finds a vault by name", client.get_vault_by_title("AgentVault").id == AGENT_VAULT)
    check("finds a vault by id", client.get_vault(AGENT_VAULT).name == "AgentVault")
    found("no vault has that name", 0, client.get_vault_by_title, "None")
    found("names of vaults are case-sensitive", 0, client.get_vault_by_title, "agentvault")
    found("two vaults have that name", 2, client.get_vault_by_title, "Twins")


def reads_items():
    item = client.get_item("ordinary", "AgentVault")
    check("finds an item by names", item.vault.id == AGENT_VAULT and item.version == 1)
    values = {field.label: field.value for field in item.fields}
    check("reads its fields", values["password"] == "canary-agentvault-password")
    check("finds an item by id", client.get_item(item.id, AGENT_VAULT).title == "ordinary")
    check("lists only summaries", not hasattr(client.get_items(AGENT_VAULT)[0], "fields"))
    check("filters", [i.id for i in client.get_items(AGENT_VAULT, 'title eq "ordinary"')] == [item.id])
    found("two items have that title", 2, client.get_item, "same title", DUPLICATES)
    found("no item has that title", 0, client.get_item, "none", DUPLICATES)
    item = client.get_item("abcdefghijklmnopqrstuvwxyz", DUPLICATES)
    check("finds an item whose title looks like an id", item.fields[0].value == "titled like an id")
    types = {field.type for field in client.get_item("types", SHAPES).fields}
    check("returns types that are in no specification", "A_TYPE_OF_TOMORROW" in types)
    otp = client.get_item("otp", SHAPES).fields[0]
    check("returns one-time passwords", otp.totp == "123456" and otp.value.startswith("otpauth://"))
    values = {field.id: field.value for field in client.get_item("values", SHAPES).fields}
    check("distinguishes absent and empty values", values["absent"] is None and values["empty"] == "")


def reads_files():
    item = client.get_item("files", SHAPES)
    files = {file.name: file for file in client.get_files(item.id, SHAPES)}
    file = files["binary.der"]
    content = client.get_file_content(file.id, item.id, SHAPES, file.content_path)
    check("reads a binary file", content == bytes(range(256)) and file.size == 256)
    check("describes a file", client.get_file(file.id, item.id, SHAPES).name == "binary.der")
    refused("no such file", 404, client.get_file, "a" * 26, item.id, SHAPES)


def writes_items():
    field = Field(label="password", value="first", type="CONCEALED")
    item = Item(title="made", category="LOGIN", vault=ItemVault(id=AGENT_VAULT), fields=[field])
    made = client.create_item(AGENT_VAULT, item)
    check("creates an item", len(made.id) == 26 and made.version == 1 and made.fields[0].value == "first")
    made.fields[0].value = "second"
    changed = client.update_item(made.id, AGENT_VAULT, made)
    check("changes an item", changed.version == 2 and changed.fields[0].value == "second")
    patch = [{"op": "replace", "path": f"/fields/{made.fields[0].id}/value", "value": "third"}]
    response = client.build_request("PATCH", f"/v1/vaults/{AGENT_VAULT}/items/{made.id}", patch)
    check("patches an item", response.status_code == 200 and response.json()["version"] == 3)
    check("keeps the patch", client.get_item(made.id, AGENT_VAULT).fields[0].value == "third")
    client.delete_item(made.id, AGENT_VAULT)
    refused("deletes an item", 404, client.get_item_by_id, made.id, AGENT_VAULT)
    item.category = "NO_SUCH_CATEGORY"
    refused("refuses an unknown category", 400, client.create_item, AGENT_VAULT, item)


def refuses():
    wrong = new_client(READY["connect"], READY["token"] + "x")
    refused("a wrong token", 401, wrong.get_vaults)
    refused("an expired token", 401, new_client(READY["connect"], READY["expired_token"]).get_vaults)
    refused("a vault outside the token's scope", 403, limited.get_vault, DUPLICATES)
    refused("an item of a vault outside the token's scope", 403, limited.get_items, DUPLICATES)
    refused("an unknown vault", 404, client.get_vault, "a" * 26)
    refused("an unknown item", 404, client.get_item_by_id, "a" * 26, AGENT_VAULT)
    refused("a vault's name in place of its id", 400, client.get_vault, "AgentVault")
    refused("a quote in a filter", 400, client.get_items, AGENT_VAULT, 'title eq "it\'s"')
    refused("what a fault's name asks for", 418, client.get_item, "status-418", "Faults")


def broken(name, error):
    """Checks that fetching the item of this name ends in an error below HTTP."""
    try:
        fetch(name)
    except error:
        check(f"fault {name}", True)
    else:
        check(f"fault {name}", False)


def fetch(name):
    item = client.get_items(FAULTS, f'title eq "{name}"')[0]
    return client.session.get(f"/v1/vaults/{FAULTS}/items/{item.id}", timeout=1)


def breaks():
    broken("reset", httpx.ReadError)
    broken("half-closed", httpx.RemoteProtocolError)
    broken("silent", httpx.ReadTimeout)
    broken("slow-2000", httpx.ReadTimeout)
    check("fault html-502", fetch("html-502").headers["Content-Type"] == "text/html")
    check("fault retry-after-7", fetch("retry-after-7").headers["Retry-After"] == "7")
    for name in ("not-json", "empty-body"):
        check(f"fault {name}", not fetch(name).content.startswith((b"{", b"[")))
    check("fault deep-json", fetch("deep-json").content.startswith(b"[[[["))
    check("fault wrong-type", isinstance(fetch("wrong-type").json()["fields"], str))
    item = client.get_items(FAULTS, 'title eq "huge"')[0]
    with client.session.stream("GET", f"/v1/vaults/{FAULTS}/items/{item.id}") as response:
        check("fault huge", sum(len(chunk) for chunk, _ in zip(response.iter_raw(), range(1000))) > 10_000_000)
    response = fetch("redirect")
    check("fault redirect", response.status_code == 302)
    httpx.get(response.headers["Location"])
    check("counts requests that follow a redirection", httpx.get(READY["connect"] + "/stand-in/hits").json() == {"hits": 1})
    check("fault reset-once", fails_once("reset-once-here"))


def fails_once(name):
    broken(name, httpx.ReadError)
    return fetch(name).json()["fields"][0]["value"] == "canary-fault-value"


def reports_its_state():
    get = client.session.get
    check("heartbeat", get("/heartbeat").text == ".")
    check("health", get("/health").json()["dependencies"][0]["status"] == "ACTIVE")
    response = get("/v1/activity", params={"limit": 2, "offset": 1})
    check("a page of activity", len(response.json()) == 2 and response.headers["Content-Range"].startswith("2-3/"))
    check("version", response.headers["1Password-Connect-Version"] == "1.8.1")
    log = httpx.get(READY["connect"] + "/stand-in/requests").text
    check("the log holds no token", "standin-connect-token" not in log and READY["token"] not in log)


if __name__ == "__main__":
    for part in (reads_vaults, reads_items, reads_files, writes_items, refuses, breaks, reports_its_state):
        part()
