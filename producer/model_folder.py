"""Finds a generator's folder and names it by what it holds.

A digest of weights and configuration stands in every recipe, so that a ticket means the same pixels wherever the folder
lies and whatever it is called.
"""

import hashlib
import re
from pathlib import Path

from penstock.protocol.errors import ModelError

TINY = Path(__file__).parent / "tiny_sd"
"""The model that comes with Penstock."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_DIGESTED = {".safetensors", ".json", ".txt"}


def find(model: str) -> Path:
    """The local folder of `model`: a folder, `tiny`, or a hub id, which is downloaded to the hub's cache if need be.

    Raises ModelError where there is no such model, or where it is not a diffusers pipeline.
    """
    folder = TINY if model == "tiny" else Path(model).expanduser()
    if not folder.exists() and _HUB_ID.fullmatch(model):
        folder = _download(model)
    if not folder.is_dir():
        raise ModelError(f"model {model!r}: no such folder; give a diffusers folder, a hub id (owner/name) or 'tiny'")
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"model {model!r}: {folder} has no model_index.json; it is not a diffusers pipeline folder")
    return folder


def _download(hub_id: str) -> Path:
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(hub_id, use_safetensors=True))
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ModelError(
            f"model {hub_id!r}: no folder of that name here, and the hub gives none: {first_line}"
        ) from error


def digest(folder: Path) -> str:
    """SHA-256 over names and contents of the folder's weights (safetensors) and configuration (json, txt), as hex."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _DIGESTED):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()
