"""Schedulers by name, each made for one number of steps.

A diffusers scheduler keeps state from step to step, so every batch gets its own. What a name is worth for a model is
found out before any image is begun: the whole schedule runs once over a single pixel of noise.
"""

import copy
import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import diffusers
import torch
from torch import Tensor

from penstock.protocol.errors import ModelError

_UNSEEDED = frozenset({"DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"})
"""They draw noise from a generator of their own, so a ticket would not say what it makes."""
_TRIED_CALLS = 50
"""Calls of a schedule that are tried: what does not suit shows in the first of them."""
_TROUBLES = (
    AttributeError,
    IndexError,
    ImportError,
    KeyError,
    NotImplementedError,
    TypeError,
    ValueError,
    RuntimeError,
)
"""What a scheduler raises that does not suit the model depends on the scheduler."""


def scheduler_class(name: str, default: Any) -> Any:
    """The class of the scheduler `name`, or of `default` where that is its name.

    Raises ModelError where diffusers has none of that name, or where its noise has no seed.
    """
    kind: Any = type(default) if name == "default" else getattr(diffusers, name, None)
    if name in _UNSEEDED or getattr(kind, "__name__", "") in _UNSEEDED:
        raise ModelError(f"scheduler {name!r} draws noise of its own, which no seed fixes; use another")
    is_scheduler = inspect.isclass(kind) and issubclass(kind, diffusers.SchedulerMixin)
    if not (is_scheduler and issubclass(kind, diffusers.ConfigMixin)):
        raise ModelError(f"diffusers {diffusers.__version__} has no scheduler {name!r}")
    return kind


@lru_cache
def _parameters(function: Callable[..., object]) -> frozenset[str]:
    """The names of what a function takes."""
    return frozenset(inspect.signature(function).parameters)


class Schedule:
    """One run through a scheduler's steps, for rows that walk together.

    Args:
        scheduler: a diffusers scheduler of its own, whose timesteps are set.
        num_steps: to which they were set.
    """

    def __init__(self, scheduler: Any, num_steps: int) -> None:
        self._scheduler = scheduler
        # On the host: a scheduler that looks a step up on a GPU waits for it every time.
        self._timesteps: Tensor = scheduler.timesteps
        parameters = _parameters(type(scheduler).step)
        self._takes_generator = "generator" in parameters
        self._options = {"eta": 0.0} if "eta" in parameters else {}
        self.steps = self._steps_of_calls(num_steps)
        """Of every call the step that it belongs to, from 0 to the number of steps less 1."""

    @property
    def num_calls(self) -> int:
        """Calls of the denoiser: the steps, or twice as many for a method of second order."""
        return len(self._timesteps)

    @property
    def timesteps(self) -> list[float]:
        """The timestep of every call, as the denoiser takes it."""
        return [float(timestep) for timestep in self._timesteps]

    def _steps_of_calls(self, num_steps: int) -> list[int]:
        num_calls, order = self.num_calls, int(getattr(self._scheduler, "order", 1))
        prk = getattr(self._scheduler, "prk_timesteps", None)
        num_prk = 0 if prk is None else len(prk)
        if num_prk:
            # Runge-Kutta takes four calls a step, the multistep method after it one.
            return [call // 4 if call < num_prk else num_prk // 4 + call - num_prk for call in range(num_calls)]
        if order > 1:
            return [call // order for call in range(num_calls)]
        # As many as steps, or one more: PNDM's first step takes two.
        extra = num_calls - num_steps
        return [max(0, call - extra) for call in range(num_calls)]

    @property
    def initial_scale(self) -> float:
        """Standard deviation of the noise that it begins from."""
        return float(self._scheduler.init_noise_sigma)

    def scaled(self, latents: Tensor, call: int) -> Tensor:
        """What the denoiser gets to see of `latents`, float32 [n, C, h, w]."""
        if not hasattr(self._scheduler, "scale_model_input"):
            return latents
        scaled: Tensor = self._scheduler.scale_model_input(latents, self._timesteps[call])
        return scaled

    def step(self, prediction: Tensor, call: int, latents: Tensor, generators: list[torch.Generator]) -> Tensor:
        """The latents after call `call`; both float32 [n, C, h, w], the noise of row i from `generators[i]`."""
        options = self._options | ({"generator": generators} if self._takes_generator else {})
        after = self._scheduler.step(prediction, self._timesteps[call], latents, return_dict=False, **options)
        moved: Tensor = after[0]
        return moved


class Schedules:
    """Makes schedules from a pipeline's own scheduler.

    Args:
        default: the pipeline's scheduler; others take over its configuration.
        channels: C of the latents.
    """

    def __init__(self, default: Any, channels: int) -> None:
        self._default = default
        self._channels = channels
        self._prepared = lru_cache(maxsize=16)(self._prepare)
        self.check = lru_cache(maxsize=256)(self._check)
        """Why this model cannot go `num_steps` steps with the scheduler `name`, or None. Tried once for each."""

    def open(self, name: str, num_steps: int) -> Schedule:
        """A fresh schedule of `num_steps` steps with the scheduler `name`, or `default` for the pipeline's own.

        Raises ModelError where diffusers has none of that name.
        """
        return Schedule(copy.deepcopy(self._prepared(name, num_steps)), num_steps)

    def _prepare(self, name: str, num_steps: int) -> Any:
        """A scheduler whose timesteps are set and which nobody has stepped."""
        scheduler = scheduler_class(name, self._default).from_config(self._default.config)
        scheduler.set_timesteps(num_steps)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        return scheduler

    def _check(self, name: str, num_steps: int) -> ModelError | None:
        try:
            schedule = self.open(name, num_steps)
            generators = [torch.Generator().manual_seed(0)]
            latents = torch.randn((1, self._channels, 8, 8), generator=generators[0]) * schedule.initial_scale
            for call in range(min(schedule.num_calls, _TRIED_CALLS)):
                seen = schedule.scaled(latents, call)
                latents = schedule.step(seen, call, latents, generators)
        except ModelError as error:
            return error
        except _TROUBLES as error:
            return ModelError(f"scheduler {name!r} with {num_steps} steps does not suit this model: {error!r:.200}")
        return None
