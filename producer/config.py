"""Configuration of a producer. Only how it works stands here; what is made comes with the tickets."""

import os
import socket
from dataclasses import dataclass
from typing import Literal

from penstock.config.rules import require


def default_name() -> str:
    """`HOST-PID`: unique on a network, and enough to find the process."""
    return f"{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProduceConfig:
    """Makes images for a run: connects to one rank, learns of the others, works on the tickets that they give."""

    connect: str = "tcp://127.0.0.1:5599"
    """Address of any rank of the run, as the trainer logs it."""
    model: str = "tiny"
    """A diffusers text-to-image folder, a hub id, or `tiny`: the model that comes with Penstock."""
    name: str = ""
    """Name in logs and metrics; HOST-PID if empty."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic; `auto` is float16 on a GPU, bfloat16 on a CPU that computes in it, else float32."""
    backend: Literal["eager"] = "eager"
    """How the denoiser is run."""
    batch_images: int = 32
    """Images in every batch; tails are padded to it, so that a ticket's company changes no bit."""
    threads: int = 0
    """CPU threads; 0 leaves it to torch. Processes that share cores want 1 each."""
    credit_batches: int = 2
    """Batches of tickets held for each rank. One works while the next is on its way; more adds only delay."""
    trainer_timeout_s: float = 600.0
    """Seconds without any trainer before the producer gives up."""

    def __post_init__(self) -> None:
        require(self.batch_images >= 1, "batch_images must be >= 1", self.batch_images)
        require(self.threads >= 0, "threads must be >= 0", self.threads)
        require(self.credit_batches >= 1, "credit_batches must be >= 1", self.credit_batches)
        require(self.trainer_timeout_s > 0, "trainer_timeout_s must be > 0", self.trainer_timeout_s)
