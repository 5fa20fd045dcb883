"""Finds a generator's folder and names it by what it holds.

A digest of weights and configuration stands in every recipe, so that a ticket means the same pixels wherever the folder
lies and whatever it is called.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from penstock.protocol.errors import ModelError

TINY = Path(__file__).parent / "tiny_sd"
"""The model that comes with Penstock."""

STABLE_DIFFUSION = frozenset({"StableDiffusionPipeline", "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline"})
"""Pipelines whose denoising loop is ours."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PART_WEIGHTS = "diffusion_pytorch_model.safetensors"
_WEIGHTS = re.compile(r"(model|diffusion_pytorch_model)(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_NOT_PIXELS = {"safety_checker", "feature_extractor"}


def find(model: str) -> Path:
    """The local folder of `model`: a folder, `tiny`, or a hub id, which is downloaded to the hub's cache if need be.

    Raises ModelError where there is no such model, or where it is not a diffusers pipeline.
    """
    folder = TINY if model == "tiny" else Path(model).expanduser()
    # A first part that is a folder here makes it a mistyped path, which the hub need not be asked about.
    if not folder.exists() and _HUB_ID.fullmatch(model) and not Path(model).parent.exists():
        folder = _download(model)
    if not folder.is_dir():
        raise ModelError(f"model {model!r}: no such folder; give a diffusers folder, a hub id (owner/name) or 'tiny'")
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"model {model!r}: {folder} has no model_index.json; it is not a diffusers pipeline folder")
    return folder


def find_part(model: str) -> Path:
    """The local folder of a single network such as an autoencoder: a folder, or a hub id. Raises ModelError."""
    folder = Path(model).expanduser()
    if not folder.exists() and _HUB_ID.fullmatch(model) and not Path(model).parent.exists():
        folder = _download_part(model)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{model!r}: no folder with a config.json; give a folder or a hub id (owner/name)")
    return folder


def find_scorer(model: str) -> Path:
    """The local folder of an image-text model: a folder, or a hub id. Raises ModelError."""
    folder = Path(model).expanduser()
    if not folder.exists() and _HUB_ID.fullmatch(model) and not Path(model).parent.exists():
        folder = _download_scorer(model)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"scorer {model!r}: no folder with a config.json; give a folder of CLIP's or SigLIP's kind, "
            "a hub id (owner/name) or 'toyworld'"
        )
    return folder


def _download_scorer(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.txt", "*.model", "model*.safetensors"]))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"scorer {hub_id!r}: no folder of that name here, and the hub gives none: {_line(error)}"
        ) from error


def _download_part(hub_id: str) -> Path:
    from transformers.utils import cached_file

    try:
        cached_file(hub_id, _PART_WEIGHTS)
        return Path(cached_file(hub_id, "config.json")).parent
    except (OSError, ValueError) as error:
        raise ModelError(f"{hub_id!r}: no folder of that name here, and the hub gives none: {_line(error)}") from error


def _line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _download(hub_id: str) -> Path:
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(hub_id, use_safetensors=True))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {hub_id!r}: no folder of that name here, and the hub gives none: {_line(error)}"
        ) from error


def pipeline_class(folder: Path) -> str:
    """Class name of the pipeline, as its index says it; empty where it says none. Raises ModelError as `scheduler`."""
    name = _index(folder).get("_class_name")
    return name if isinstance(name, str) else ""


def absent_parts(folder: Path) -> list[str]:
    """The parts that the pipeline could have and the folder has not. Raises ModelError as `scheduler`."""
    return sorted(name for name, value in _index(folder).items() if value == [None, None])


def scheduler(folder: Path) -> str:
    """Class name of the pipeline's own scheduler, as its index names it. Raises ModelError where there is none."""
    entry = _index(folder).get("scheduler")
    if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)):
        raise ModelError(f"{folder}/model_index.json names no scheduler; it is not a diffusers pipeline folder")
    return entry[1]


def digest(folder: Path) -> str:
    """SHA-256 over the pipeline's index and the files of the components that make pixels, as hex.

    The components are those that `model_index.json` names, less the safety checker and its feature extractor; pages and
    pictures beside the weights do not count. So a clone and a download of one model agree.
    """
    index = _index(folder)
    parts = sorted(name for name, value in index.items() if isinstance(value, list) and name not in _NOT_PIXELS)
    total = hashlib.sha256(json.dumps({name: index[name] for name in parts}, sort_keys=True).encode())
    for path in sorted(path for part in parts for path in (folder / part).rglob("*") if _is_digested(path)):
        total.update(_line_of(path, folder))
    return total.hexdigest()


def digest_part(folder: Path) -> str:
    """SHA-256 over the files of a single network, as hex."""
    total = hashlib.sha256()
    for path in sorted(filter(_is_digested, folder.rglob("*"))):
        total.update(_line_of(path, folder))
    return total.hexdigest()


def _line_of(path: Path, folder: Path) -> bytes:
    """A file's place and digest."""
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{path.relative_to(folder).as_posix()} {content}\n".encode()


def _index(folder: Path) -> dict[str, Any]:
    """What `model_index.json` says. Raises ModelError where it is no JSON object."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder}/model_index.json does not load: {error}") from error
    if not isinstance(index, dict):
        raise ModelError(f"{folder}/model_index.json does not load: it must be a JSON object")
    return index


def _is_digested(path: Path) -> bool:
    """Whether loading reads a file: weights of no variant, and what configures. A clone of a model's page has more."""
    if path.name.endswith((".safetensors", ".index.json")):
        return _WEIGHTS.fullmatch(path.name) is not None and path.is_file()
    return path.suffix.lower() in {".json", ".txt", ".model"} and path.is_file()
