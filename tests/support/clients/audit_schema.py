"""Validates audit files against the schema that describes their lines, one of those in config.

Usage: audit_schema.py SCHEMA FILE...

Fails if a line is not as the schema says, or has a key that the schema does not describe; so that the schema cannot be one that
takes anything, every line must be refused once a key is added to it, and once its time is gone.
"""

import json
import pathlib
import sys

from jsonschema import Draft202012Validator


def of_known_keys(schema):
    """The schema, with keys that it does not describe forbidden in all objects inside a line."""
    if isinstance(schema, list):
        return [of_known_keys(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: of_known_keys(part) for key, part in schema.items()}
    if "properties" in schema and schema.get("type") == "object":
        strict.setdefault("unevaluatedProperties", False)
    return strict


def main():
    schema = json.loads(pathlib.Path(sys.argv[1]).read_text())
    Draft202012Validator.check_schema(schema)
    lenient, strict = Draft202012Validator(schema), Draft202012Validator(of_known_keys(schema))
    kinds = set()
    for file in sys.argv[2:]:
        for number, text in enumerate(pathlib.Path(file).read_text().splitlines(), 1):
            line = json.loads(text)
            for error in strict.iter_errors(line):
                sys.exit(f"{file}:{number}: {error.json_path}: {error.message}")
            newer = line | {"added": True}
            assert lenient.is_valid(newer) and not strict.is_valid(newer), f"{file}:{number}: an added key"
            del newer["time"]
            assert not lenient.is_valid(newer), f"{file}:{number}: no time"
            kinds.add(line.get("mark") or line.get("event") or line["decision"])
    print(*sorted(kinds))


main()
