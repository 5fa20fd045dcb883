"""An evaluation from its settings to its report."""

import dataclasses
from importlib import metadata
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from penstock.consumer.evaluation.cache import FeatureCache
from penstock.consumer.evaluation.config import EvaluateConfig
from penstock.consumer.evaluation.encoders import load_encoder
from penstock.consumer.evaluation.features import SetEncoder
from penstock.consumer.evaluation.measuring import measure
from penstock.consumer.evaluation.report import Report
from penstock.consumer.evaluation.tasks import open_tasks
from penstock.protocol.errors import ConfigError

NO_CACHE = "none"


def evaluate(config: EvaluateConfig) -> Report:
    """Load the encoder, encode what is not in the cache, measure.

    Raises:
        PenstockError: an encoder, a set or a device that cannot be used; in one line.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # what is missing from a model is said by `load_encoder`
    device = open_device(config.device)
    encoder = load_encoder(config.encoder, device, seed=config.seed)
    tasks = open_tasks(config)
    folder = None if config.cache == NO_CACHE else Path(config.cache).expanduser()
    cache = FeatureCache(folder, config.cache_bytes)
    set_encoder = SetEncoder(encoder, device, cache, config.batch_size)
    return Report(
        encoder=encoder.name,
        feature=encoder.feature,
        dim=encoder.dim,
        digest=encoder.digest,
        preprocessing=encoder.preprocessing.to_json(),
        tasks=tuple(measure(task, encoder, set_encoder, device, config) for task in tasks),
        settings=dataclasses.asdict(config),
        versions={name: metadata.version(name) for name in ("penstock", "torch", "transformers")},
        cache={
            "folder": None if folder is None else str(folder),
            "hits": cache.hits,
            "misses": cache.misses,
            "bytes": cache.size_bytes,
        },
    )


def open_device(name: str) -> torch.device:
    """The device that a setting names. Raises ConfigError where torch has no such device here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} is not there: {str(error).splitlines()[0]}") from error
    return device
