"""Loads a diffusers pipeline, and says what a device and a dtype are here."""

import contextlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError

from penstock.producer import model_folder
from penstock.producer.config import ProduceConfig
from penstock.protocol.errors import ModelError
from penstock.protocol.limits import MAX_NAME_LENGTH
from penstock.protocol.tickets import Manifest
from penstock.telemetry.machine import bf16_instructions

LOADING_ERRORS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError),
    SafetensorError,
)
"""What `from_pretrained` raises for a broken folder depends on which part is broken."""


def load_pipeline(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The text-to-image pipeline in `folder`, its networks on the device. Raises ModelError where it does not load."""
    silence()
    if device.type == "cuda":
        # What torch does on "the current device" is done on this one; a process has one engine.
        torch.cuda.set_device(device)
    if dtype == torch.float32:
        # float32 is what was asked for; its convolutions would else be TF32's on a GPU.
        torch.backends.cudnn.allow_tf32 = False
    # Said, because not every pipeline takes the index's word for it (SD3 without its largest text encoder).
    absent = dict.fromkeys(model_folder.absent_parts(folder))
    try:
        pipeline = diffusers.AutoPipelineForText2Image.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, **absent
        )
    except LOADING_ERRORS as error:
        raise ModelError(f"{folder} does not load as a text-to-image pipeline: {first_line(error)}") from error
    if getattr(pipeline, "safety_checker", None) is not None:
        # It blackens images without a word, and a black image among positives is poison.
        pipeline.safety_checker = None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def load_tiny_autoencoder(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The distilled autoencoder in `folder`. Raises ModelError where it does not load."""
    silence()
    try:
        autoencoder = diffusers.AutoencoderTiny.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    except LOADING_ERRORS as error:
        raise ModelError(f"{folder} does not load as a tiny autoencoder: {first_line(error)}") from error
    return autoencoder.to(device).eval()


def silence() -> None:
    """Keep the libraries from writing progress and advice between our lines."""
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def first_line(error: Exception) -> str:
    """The first line of what a library says went wrong."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


def find_device(name: str) -> torch.device:
    """The device that a setting names. Raises ModelError where it is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"device {name!r} is not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {name!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """The arithmetic that a setting names; `auto` is the fastest that is sound on the device."""
    if name == "auto":
        on_cpu = "bfloat16" if bf16_instructions() else "float32"
        name = on_cpu if device.type == "cpu" else "float16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def describe(
    config: ProduceConfig, folder: Path, dtype: torch.dtype, device: torch.device, settings: dict[str, str]
) -> Manifest:
    """The manifest of an engine that runs the model in `folder`.

    Args:
        config: model, backend and batch shape.
        folder: of the pipeline.
        dtype: of the denoiser.
        device: where it runs.
        settings: whatever else of the engine changes pixels.

    Raises ModelError where a library that the backend needs is not installed.
    """
    needed = {"xformers": ["xformers"], "tensorrt": ["torch-tensorrt", "tensorrt"]}.get(config.backend, [])
    for library in needed:
        if not _is_installed(library):
            raise ModelError(
                f"backend {config.backend}: {library} is not installed; pip install -e '.[gpu]', or use --backend eager"
            )
    libraries = ["torch", "diffusers", "transformers", *needed]
    if device.type == "cpu":
        # Other threads split sums at other places, and other instructions round elsewhere.
        settings = settings | {"threads": str(torch.get_num_threads())}
        settings |= {"bfloat16": (bf16_instructions() or ["none"])[0]} if dtype == torch.bfloat16 else {}
    return Manifest(
        # The end of a long path says more than its beginning.
        model=config.model[-MAX_NAME_LENGTH:],
        model_digest=model_folder.digest(folder),
        scheduler=model_folder.scheduler(folder),
        dtype=str(dtype).removeprefix("torch."),
        backend=config.backend,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability(),
        batch_images=config.batch_images,
        settings=settings,
        versions={name: version(name) for name in libraries},
    )


def _is_installed(library: str) -> bool:
    with contextlib.suppress(PackageNotFoundError):
        return bool(version(library))
    return False


def refuse_other_model(recipe_digest: str, manifest: Manifest) -> ModelError | None:
    """Why a recipe for the model with `recipe_digest` cannot be made with this one, or None."""
    if recipe_digest == manifest.model_digest:
        return None
    return ModelError(f"the ticket wants model {recipe_digest[:12]}, this is {manifest.model_digest[:12]}")
