"""What a profile says of where it was measured: the machine, its software, and the settings that matter."""

import dataclasses
import hashlib
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from penstock.consumer.profile_run.settings import ProfileConfig
from penstock.telemetry.machine import cpu_model, nvidia_gpus, usable_cores

_PACKAGES = ("penstock", "torch", "accelerate", "transformers", "diffusers", "pyzmq", "triton")
_OF_THE_REPORT = (
    *("out", "run_dir", "overwrite", "metrics", "dashboard", "trace", "view", "tracking", "evaluation"),
    *("producer_price_per_hour", "trainer_price_per_hour", "checkpoint_every_steps"),
)
"""Settings that change nothing that is measured."""


def environment() -> dict[str, str]:
    """The machine and its software."""
    found = {
        "CPU": cpu_model(),
        "cores": str(usable_cores()),
        "threads of torch": str(torch.get_num_threads()),
        "load average": f"{os.getloadavg()[0]:.2f}",
        "system": platform.platform(terse=True),
        "Python": platform.python_version(),
    }
    for number, gpu in enumerate(nvidia_gpus()):
        found[f"GPU {number}"] = gpu
    if torch.version.cuda and torch.cuda.is_available():
        found["CUDA"] = torch.version.cuda
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def device(where: torch.device) -> str:
    """A device's name for people."""
    return torch.cuda.get_device_name(where) if where.type == "cuda" else where.type


def digest(config: ProfileConfig) -> str:
    """Of all settings that decide what is measured."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in _OF_THE_REPORT}
    settings["stream"].pop("endpoint")
    return hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
