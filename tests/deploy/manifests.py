"""Checks the files for Kubernetes as a strict server would, without one: `make lint` runs it, and tests call it.

    python -m tests.deploy.manifests            what `kubectl kustomize` made of the overlays is valid and up to date
    python -m tests.deploy.manifests render     make it again (`make manifests`); wants kubectl

`kubectl` is not everywhere, so what it says of the overlays is kept in deploy/kubernetes/rendered, each with a digest
of the sources that it was made from.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
RENDERED = FOLDER / "rendered"
SECRETS = FOLDER / "secrets.example.yaml"
OVERLAYS = ("local", "gpu")
VERSIONS = ("1.31", "1.34", "1.37")
"""Of Kubernetes: the oldest that is meant, one between, and the newest that kubernetes-validate knows."""
CUSTOM = {"JobSet": "jobset.json", "PodMonitor": "podmonitor.json", "ScaledObject": "scaledobject.json"}
"""Schemas of the kinds that are not Kubernetes' own."""

Manifest = dict[str, Any]


def documents(path: Path) -> list[Manifest]:
    """The objects of a file."""
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


def sources(overlay: str) -> list[Path]:
    """The files that an overlay is made of."""
    folders = (FOLDER / "base", FOLDER / "components", FOLDER / "overlays" / overlay)
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def header(overlay: str) -> str:
    """The first line of what is rendered: from what, exactly."""
    digest = hashlib.sha256()
    for path in sources(overlay):
        digest.update(f"{path.relative_to(FOLDER)}\0".encode() + path.read_bytes() + b"\0")
    return f"# kubectl kustomize deploy/kubernetes/overlays/{overlay} (make manifests) of {digest.hexdigest()}\n"


def render(overlay: str) -> str:
    """What kubectl makes of an overlay, offline."""
    command = ["kubectl", "kustomize", str(FOLDER / "overlays" / overlay)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def mistakes(manifest: Manifest) -> Iterator[str]:
    """What a strict server would refuse of one object, in words."""
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    if kind in CUSTOM:
        yield from (f"{kind} {name}: {text}" for text in _schema_mistakes(manifest, CUSTOM[kind]))
        if kind == "JobSet":
            for job in manifest["spec"]["replicatedJobs"]:
                meta = {"name": f"{name}-{job['name']}-0"}
                yield from mistakes({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, **job["template"]})
        return
    import kubernetes_validate  # here: whoever only renders needs it not

    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            yield f"{kind} {name}, Kubernetes {version}: {getattr(error, 'message', error)}"


def _schema_mistakes(manifest: Manifest, schema: str) -> Iterator[str]:
    from jsonschema import Draft7Validator

    for error in Draft7Validator(_schema(schema)).iter_errors(manifest):
        yield f"{'.'.join(map(str, error.absolute_path)) or 'the object'}: {error.message:.300}"


@cache
def _schema(name: str) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = json.loads((FOLDER / "schemas" / name).read_text())
    return schema


def problems() -> Iterator[str]:
    """All that is wrong with the files."""
    for overlay in OVERLAYS:
        rendered = RENDERED / f"{overlay}.yaml"
        if not rendered.read_text().startswith(header(overlay)):
            yield f"{rendered.relative_to(ROOT)} is older than its sources: make manifests"
    for path in (*(RENDERED / f"{overlay}.yaml" for overlay in OVERLAYS), SECRETS):
        for manifest in documents(path):
            yield from (f"{path.relative_to(ROOT)}: {mistake}" for mistake in mistakes(manifest))


def main() -> int:
    """Check, or render first. The exit status."""
    if sys.argv[1:] == ["render"]:
        RENDERED.mkdir(exist_ok=True)
        for overlay in OVERLAYS:
            (RENDERED / f"{overlay}.yaml").write_text(header(overlay) + render(overlay))
    found = list(problems())
    said = found or [f"manifests of {', '.join(OVERLAYS)}: valid for Kubernetes {', '.join(VERSIONS)}"]
    sys.stdout.write("\n".join(said) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
