"""Engines of a test: opened on a small folder, and asked for groups as the service asks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock.producer.config import ProduceConfig
from penstock.producer.engine import Engine
from penstock.protocol.tickets import Recipe, Ticket

BATCH = 4


def config(folder: Path, **changes: Any) -> ProduceConfig:
    settings = {"model": str(folder), "device": "cpu", "dtype": "float32", "batch_images": BATCH, "threads": 1}
    return ProduceConfig(**({**settings, "decode_images": 3} | changes))


def ticket(engine: Engine, index: int, **recipe: Any) -> Ticket:
    fields: dict[str, Any] = {
        "prompt": f"a red fox {index}",
        "seed": 1000 + index,
        "num_images": 2,
        "guidance_scales": (2.0,),
        "num_inference_steps": 2,
        "scheduler": "default",
        "height": 16,
        "width": 16,
        "model_digest": engine.manifest.model_digest,
    }
    return Ticket(index=index, rank=0, recipe=Recipe(**(fields | recipe)))


def equal(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
