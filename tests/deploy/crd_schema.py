"""Makes the JSON schema of a custom resource from its definition, as `make lint` uses it: small, strict, without prose.

    python -m tests.deploy.crd_schema CRD.yaml SOURCE deploy/kubernetes/schemas/NAME.json [PATH ...]

SOURCE says where the definition is from. Each PATH, dotted, is a part that is checked in another way and left open
here: the pods within a JobSet, which are Kubernetes' own.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

_KEPT = ("type", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern", "required")


def convert(definition: dict[str, Any], source: str, left_open: Sequence[str] = ()) -> dict[str, Any]:
    """The schema of the newest served version of a CustomResourceDefinition; `status` is the server's and left out."""
    spec = definition["spec"]
    version = next(version for version in spec["versions"] if version["served"] and version["storage"])
    schema = _strict(version["schema"]["openAPIV3Schema"])
    properties = schema["properties"]
    properties.pop("status", None)
    properties["apiVersion"] = {"const": f"{spec['group']}/{version['name']}"}
    properties["kind"] = {"const": spec["names"]["kind"]}
    for path in left_open:
        _leave_open(schema, path.split("."))
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": f"From {source}, by tests/deploy/crd_schema.py: without descriptions, defaults, CEL rules, status"
        + "".join(f"; {path} left open" for path in left_open),
        **schema,
        "required": ["apiVersion", "kind", "metadata", "spec"],
    }


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without what only people or the server read; an object has no properties but those that are named."""
    strict: dict[str, Any] = {key: schema[key] for key in _KEPT if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        strict |= {"type": ["integer", "string"]}
    if "items" in schema:
        strict["items"] = _strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        strict["additionalProperties"] = _strict(schema["additionalProperties"])
    if "properties" in schema:
        strict["properties"] = {name: _strict(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict["additionalProperties"] = False
    return strict


def _leave_open(schema: dict[str, Any], path: Sequence[str]) -> None:
    for name in path[:-1]:
        schema = schema["properties"][name]
        schema = schema.get("items", schema)
    schema["properties"][path[-1]] = {"type": "object"}


if __name__ == "__main__":
    crd, source, out, *left_open = sys.argv[1:]
    converted = convert(yaml.safe_load(Path(crd).read_text()), source, left_open)
    Path(out).write_text(json.dumps(converted, indent=1) + "\n")
