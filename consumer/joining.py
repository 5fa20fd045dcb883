"""How a process joins the ranks: its Accelerator, the arithmetic that is asked for, and how a lost rank is named."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from transformers.utils import logging as transformers_logging

from penstock.consumer.config import TrainConfig
from penstock.consumer.prompts.asking.ask import ASKING_S
from penstock.protocol.errors import ConfigError, RunError
from penstock.telemetry.machine import bf16_instructions, usable_cores

_COLLECTIVE_MARGIN_S = 300.0
"""How much longer than any stream a collective waits: the stream knows why nothing comes."""
_PEER_GONE = re.compile(r"[Gg]loo|NCCL|Connection (closed|reset) by peer")
"""How torch.distributed reports, as a plain RuntimeError, that a rank has gone away."""


def open_accelerator(config: TrainConfig, rank: int, **arguments: Any) -> Accelerator:
    """This process's place among the ranks, with the arithmetic that `config` asks for.

    Args:
        config: the run's settings.
        rank: this process's rank, as its launcher says.
        arguments: further ones of `Accelerator`.

    Raises:
        ConfigError: there is no such arithmetic here.
        RunError: the launcher and Accelerate do not agree on the rank.
    """
    transformers_logging.disable_progress_bar()
    if config.fleet.local_producers and "OMP_NUM_THREADS" not in os.environ:
        # Processes that share cores and threads run many times slower.
        torch.set_num_threads(max(1, usable_cores() - config.fleet.local_producers))
    # It is asked for on purpose; see below.
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    try:
        waits = config.stream.producer_timeout_s + config.stream.warmup_timeout_s + _COLLECTIVE_MARGIN_S
        waits += ASKING_S if config.prompts.ask else 0.0
        accelerator = Accelerator(
            mixed_precision=precision(config.mixed_precision),
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timedelta(seconds=waits)),
                # Keeps the layout of the gradients' sums: it is changed after the first step of each life else, and
                # a sum in another order has other last bits.
                DistributedDataParallelKwargs(find_unused_parameters=config.order == "ticket"),
            ],
            **arguments,
        )
    except ValueError as error:
        raise ConfigError(f"mixed_precision {config.mixed_precision} is not possible here: {error}") from error
    if accelerator.process_index != rank:
        raise RunError(
            f"the launcher says rank {rank}, Accelerate says {accelerator.process_index}; set RANK for each process"
        )
    return accelerator


@contextmanager
def naming_lost_ranks(accelerator: Accelerator) -> Iterator[None]:
    """Around what the ranks do together; raises RunError where one of the others has gone."""
    try:
        yield
    except RuntimeError as error:
        if accelerator.num_processes == 1 or not _PEER_GONE.search(str(error)):
            raise
        raise RunError("another rank has ended; its own message says why") from error


def precision(name: str) -> str:
    """Accelerate's name of the arithmetic that `mixed_precision` asks for."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        # What it calls emulation is slower than float32.
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = bool(bf16_instructions())
    return "bf16" if has_bfloat16 else "no"
