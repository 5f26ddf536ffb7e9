"""Volumes as the kubelet makes them."""

import subprocess


def by_name(documents, kind):
    """The objects of a kind."""
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


def files(volume, documents, data):
    """The contents of a volume's files, and their mode; None for a directory.

    `data` has the Secrets and ConfigMaps that are not in `documents`.
    """
    if source := volume.get("configMap") or volume.get("secret"):
        name = source.get("name") or source["secretName"]
        ours = by_name(documents, "ConfigMap").get(name)
        values = ours["data"] if ours else data[name]
        items = {item["path"]: item["key"] for item in source.get("items", [])} or {key: key for key in values}
        return {path: values[key].encode() for path, key in items.items()}, source.get("defaultMode", 0o644)
    if source := volume.get("projected"):
        contents = {}
        for item in source["sources"]:
            if token := item.get("serviceAccountToken"):
                contents[token["path"]] = data["tokens"].get(token.get("audience"), "token").encode()
            else:
                contents |= files(item, documents, data)[0]
        return contents, source["defaultMode"]
    assert "hostPath" in volume or "emptyDir" in volume, volume
    return None, None


def fill(path, volume, documents, data):
    """Makes a volume in this directory: everyone may create files there, root's are links to the current version."""
    path.mkdir(parents=True)
    contents, mode = files(volume, documents, data)
    if contents is None:
        path.chmod(0o777 if "emptyDir" in volume else 0o755)
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", path], check=True)
    (version := path / "..2026_11_26").mkdir(mode=0o755)
    (path / "..data").symlink_to(version.name)
    for name, content in contents.items():
        (version / name).write_bytes(content)
        (version / name).chmod(mode)
        (path / name).symlink_to(f"..data/{name}")
