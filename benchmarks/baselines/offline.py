"""The processes that generate first and train then: `python -m baselines.offline JSON`, from `benchmarks/`.

Two producers share the run's tickets batch by batch: whoever is free claims the next one. The trainer loads torch while
they work and begins once all files are there. Everything but the way of the images is Penstock's own.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penstock.config.load import load_config
from penstock.consumer.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
IMAGES, CLAIMS = "images", "claims"
_POLL_S = 0.02


def train_config(flags: list[str]) -> TrainConfig:
    """The settings that `penstock train` would read from `flags`."""
    presets = ROOT / "consumer" / "presets"
    return load_config(TrainConfig, flags, preset_dir=presets, prog="offline", description="")


def produce(plan: dict[str, Any]) -> None:
    """Make groups and write them down until none is left to claim, then say so by a file."""
    from penstock.producer.config import ProduceConfig

    config = train_config(plan["flags"])
    flags = ["--config", config.fleet.local_producer_config]
    presets = ROOT / "producer" / "presets"
    produce_config = load_config(ProduceConfig, flags, preset_dir=presets, prog="offline", description="")

    from baselines.disk import write_group
    from penstock.consumer.prompts.opening import open_source
    from penstock.consumer.prompts.writer import TicketWriter
    from penstock.producer.__main__ import open_engine
    from penstock.producer.engine import make

    engine = open_engine(produce_config)
    engine.load()
    writer = TicketWriter(open_source(config.prompts, config.seed), config, engine.manifest.model_digest)
    folder = Path(plan["folder"])
    per_batch = max(1, produce_config.batch_images // config.generator.images_per_group)
    for indices in _claimed(folder / CLAIMS, plan["num_groups"], per_batch):
        tickets = [writer.write(index, 0, 0) for index in indices]
        for ticket, images in zip(tickets, make(engine, tickets), strict=True):
            write_group(folder / IMAGES, ticket.index, ticket.recipe.prompt, images)
    (folder / f"{plan['name']}.done").touch()


def _claimed(claims: Path, num_groups: int, per_batch: int) -> Iterator[range]:
    """The batches of indices that no other process has claimed before this one."""
    for start in range(0, num_groups, per_batch):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(claims / str(start), os.O_CREAT | os.O_EXCL))
            yield range(start, min(num_groups, start + per_batch))


def train(plan: dict[str, Any]) -> None:
    """Wait for the producers, then train as `penstock train` does, but from files; write the figures."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    from baselines.disk import loader
    from penstock.consumer.building import build_adamw, build_network, build_schedule
    from penstock.consumer.evaluation.online import ToyWorldEvaluation
    from penstock.consumer.prompts.opening import open_source
    from penstock.consumer.terms import Targets
    from penstock.consumer.train import precision

    config, folder = train_config(plan["flags"]), Path(plan["folder"])
    accelerator = Accelerator(mixed_precision=precision(config.mixed_precision))
    set_seed(config.seed)
    network = build_network(config, open_source(config.prompts, config.seed), None)
    model, optimizer = accelerator.prepare(network, build_adamw(config, network))
    schedule = build_schedule(config)

    _wait_for([folder / f"{name}.done" for name in plan["producers"]], plan["wait_s"])
    begun_at, num_images = time.time(), 0
    for step, (views, labels) in enumerate(loader(folder / IMAGES, config)):
        targets = Targets(*(tensor.to(accelerator.device) for tensor in labels))
        loss = model(views.to(accelerator.device), None, targets)["loss"]
        schedule.apply(optimizer, step)
        accelerator.backward(loss)
        if config.optimizer.max_grad_norm:
            accelerator.clip_grad_norm_(model.parameters(), config.optimizer.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        num_images += len(views)
    if not torch.isfinite(loss):
        raise ValueError(f"the loss is {float(loss)}")
    ended_at = time.time()
    evaluation = ToyWorldEvaluation(config.evaluation, config.augment)
    knn = evaluation.test(network.encoder)
    figures = {"begun_at": begun_at, "ended_at": ended_at, "images_trained": num_images, "steps": step + 1, "knn": knn}
    Path(plan["figures"]).write_text(json.dumps(figures))


def _wait_for(paths: list[Path], wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while not all(path.exists() for path in paths):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the producers were not done within {wait_s:.0f} s")
        time.sleep(_POLL_S)


if __name__ == "__main__":
    chosen = json.loads(sys.argv[1])
    (produce if chosen["role"] == "produce" else train)(chosen)
