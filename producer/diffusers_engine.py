"""Makes groups from tickets with any diffusers text-to-image pipeline.

Every batch has the same shape and every image its own generator, seeded from its ticket. On one engine the same ticket
therefore gives the same bits alone or among others, in any slot (measured in tests/producer/test_engine.py).
"""

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors import SafetensorError

from penstock.producer import model_folder
from penstock.producer.config import ProduceConfig
from penstock.producer.engine import Images
from penstock.protocol.errors import ModelError
from penstock.protocol.tickets import Manifest, Recipe, Ticket
from penstock.telemetry.machine import bf16_instructions

_log = logging.getLogger(__name__)

_LOADING_ERRORS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError),
    SafetensorError,
)
"""What `from_pretrained` raises for a broken folder depends on which part is broken."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One image to make."""

    prompt: str
    seed: int


class DiffusersEngine:
    """Calls a diffusers pipeline as its authors meant it to be called.

    Args:
        config: device, dtype, batch shape and where the weights lie.

    Raises:
        ModelError: the folder is missing or is no pipeline, or the device is not there.
    """

    def __init__(self, config: ProduceConfig) -> None:
        self._folder = model_folder.find(config.model)
        self._device = _device(config.device)
        self._dtype = _dtype(config.dtype, self._device)
        self._batch_images = config.batch_images
        self._pipeline: Any = None
        self._schedulers: dict[str, Any] = {}
        self._manifest = Manifest(
            model=config.model,
            model_digest=model_folder.digest(self._folder),
            scheduler=model_folder.scheduler(self._folder),
            dtype=str(self._dtype).removeprefix("torch."),
            backend=config.backend,
            device=_device_class(self._device),
            batch_images=config.batch_images,
            versions={name: version(name) for name in ("torch", "diffusers", "transformers")},
        )

    @property
    def manifest(self) -> Manifest:
        """What makes this engine interchangeable with another."""
        return self._manifest

    def load(self) -> None:
        """Load the weights onto the device. Raises ModelError where the folder does not load."""
        self._pipeline = _load(self._folder, self._dtype).to(self._device)
        self._schedulers["default"] = self._pipeline.scheduler

    def generate(self, tickets: Sequence[Ticket]) -> list[Images]:
        """One group per ticket, uint8 [m, H, W, 3].

        Args:
            tickets: at least one; they agree in guidance, steps, scheduler, size and model.

        Raises:
            ModelError: the recipe asks for a scheduler or a model that this engine does not have.
        """
        recipe = tickets[0].recipe
        if recipe.model_digest != self._manifest.model_digest:
            raise ModelError(
                f"the ticket wants model {recipe.model_digest[:12]}, this is {self._manifest.model_digest[:12]}"
            )
        rows = [_Row(ticket.recipe.prompt, seed) for ticket in tickets for seed in ticket.recipe.image_seeds]
        step = self._batch_images
        batches = [self._generate_batch(rows[start : start + step], recipe) for start in range(0, len(rows), step)]
        images = np.concatenate(batches) if len(batches) > 1 else batches[0]
        ends = np.cumsum([ticket.recipe.num_images for ticket in tickets])
        return np.split(images, ends[:-1])

    def _generate_batch(self, rows: Sequence[_Row], recipe: Recipe) -> Images:
        """Images uint8 [len(rows), H, W, 3]; the batch is padded to its fixed shape by repeating the last row."""
        padded = [*rows, *[rows[-1]] * (self._batch_images - len(rows))]
        with torch.inference_mode():
            try:
                self._pipeline.scheduler = self._scheduler(recipe.scheduler)
                images_BCHW = self._pipeline(
                    prompt=[row.prompt for row in padded],
                    generator=[torch.Generator("cpu").manual_seed(row.seed) for row in padded],
                    guidance_scale=recipe.guidance_scale,
                    num_inference_steps=recipe.num_inference_steps,
                    output_type="pt",
                ).images
            except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
                # What a scheduler raises that does not suit the pipeline depends on the scheduler.
                raise ModelError(
                    f"scheduler {recipe.scheduler!r} with {recipe.num_inference_steps} steps does not suit this model: "
                    f"{error!r:.200}"
                ) from error
            return _to_uint8(images_BCHW[: len(rows)], recipe.height, recipe.width)

    def _scheduler(self, name: str) -> Any:
        if name not in self._schedulers:
            scheduler: Any = getattr(diffusers, name, None)
            is_scheduler = inspect.isclass(scheduler) and issubclass(scheduler, diffusers.SchedulerMixin)
            if not (is_scheduler and issubclass(scheduler, diffusers.ConfigMixin)):
                raise ModelError(f"diffusers {diffusers.__version__} has no scheduler {name!r}")
            self._schedulers[name] = scheduler.from_config(self._schedulers["default"].config)
        return self._schedulers[name]


def _to_uint8(images_BCHW: torch.Tensor, height: int, width: int) -> Images:
    """[B, 3, h, w] in 0..1 to uint8 [B, H, W, 3] on the host; resized, antialiased, on the device."""
    images_BCHW = images_BCHW.float()
    if not torch.isfinite(images_BCHW).all():
        raise ModelError("the model made pixels that are not finite numbers; try --dtype float32")
    if images_BCHW.shape[-2:] != (height, width):
        images_BCHW = F.interpolate(images_BCHW, (height, width), mode="bilinear", antialias=True, align_corners=False)
    images_BHWC = images_BCHW.mul(255).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    array: Images = images_BHWC.cpu().numpy()
    return array


def _load(folder: Any, dtype: torch.dtype) -> Any:
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        pipeline = diffusers.AutoPipelineForText2Image.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except _LOADING_ERRORS as error:
        detail = str(error).strip().splitlines()
        raise ModelError(
            f"{folder} does not load as a text-to-image pipeline: {detail[0] if detail else error!r}"
        ) from error
    if getattr(pipeline, "safety_checker", None) is not None:
        # It blackens images without a word, and a black image among positives is poison.
        pipeline.safety_checker = None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"device {name!r} is not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {name!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        on_cpu = "bfloat16" if bf16_instructions() else "float32"
        name = on_cpu if device.type == "cpu" else "float16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _device_class(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
