"""`python -m penstock.producer`, and `penstock produce`: one producer, or one for each of several devices."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.config.access import metrics_token
from penstock.config.address import parse_address
from penstock.config.load import load_config
from penstock.config.process import configure_logging, ending_gently, run
from penstock.producer.config import ProduceConfig, default_name
from penstock.producer.device_child import WARMS_UP
from penstock.producer.engine import Engine
from penstock.protocol.addresses import check_dialled
from penstock.protocol.keys import read_producer_key
from penstock.telemetry.recorder import Recorder

if TYPE_CHECKING:
    from penstock.telemetry.metrics_server import MetricsServer

_log = logging.getLogger("penstock.producer")

PRESETS = Path(__file__).parent / "presets"

_ECHO_S = 2.0
"""A scheduler signals every process of a job, and whoever started this one passes its signal on."""


def main(argv: Sequence[str]) -> int:
    """Load the model, then serve the run; or see to it that others do, one a device. Returns the exit status."""
    config = load_config(
        ProduceConfig,
        argv,
        preset_dir=PRESETS,
        prog="penstock produce",
        description="Make images for a run: connect to a trainer and work on the tickets that it gives.",
    )
    configure_logging(f"producer {config.name or default_name()}")
    for endpoint in config.endpoints:
        check_dialled(endpoint)
    if config.key:
        read_producer_key(Path(config.key))  # the model may take minutes to load: a bad file is said at once
    token = _metrics_token(config)
    if config.devices:
        from penstock.producer.device_fleet import DeviceFleet
        from penstock.producer.device_list import find_devices

        return DeviceFleet(config, argv, find_devices(config.devices)).run()
    with ExitStack() as stack:
        # Before the engine, which may take minutes: an address in use is said at once.
        metrics = stack.enter_context(open_metrics(config.metrics, token)) if config.metrics else None
        return serve(config, metrics)


def serve(config: ProduceConfig, metrics: "MetricsServer | None") -> int:
    """Be one producer, and say so to whoever asks for its metrics. Returns the exit status."""
    from penstock.producer.service import ProducerService

    recorder = Recorder()
    engine = open_filtering(config, recorder) if config.scorer else open_engine(config, recorder)
    manifest = engine.manifest
    if config.images:
        # A batch of look-ups costs nothing where it is not full.
        config = replace(config, batch_wait_s=0.0)
    scores = f", scores with {config.scorer}" if config.scorer else ""
    what = f"{manifest.model} on {manifest.device} in {manifest.dtype}, digest {manifest.model_digest}{scores}"
    _log.info("%s%s", WARMS_UP, what)
    service = ProducerService(config, engine, recorder)
    if metrics is not None:
        from penstock.producer.health import producer_health
        from penstock.producer.metrics import ProducerMetrics

        metrics.collect(ProducerMetrics(service).reading)
        metrics.answer_probes(lambda: producer_health(service))
    with ending_gently(service.drain, echo_s=_ECHO_S) as asked:
        service.run()
    return 128 + signal.SIGTERM if asked() else 0


def open_metrics(address: str, token: str | None = None) -> "MetricsServer":
    """Listen there. Raises EndpointError."""
    from penstock.telemetry.metrics_server import MetricsServer

    return MetricsServer(parse_address(address, "metrics"), token=token)


def _metrics_token(config: ProduceConfig) -> str | None:
    """What readers of the metrics must bring. Raises ConfigError."""
    if not config.metrics:
        return None
    address = parse_address(config.metrics, "metrics")
    return metrics_token(address, os.environ, file=config.metrics_token_file, insecure=config.metrics_insecure)


def open_engine(config: ProduceConfig, recorder: Recorder | None = None) -> Engine:
    """The engine for what `config` names. Only what generates loads torch.

    Args:
        config: the producer's settings.
        recorder: takes note of the stages within an engine that has any.

    Raises ModelError where the model, ConfigError where the set of images cannot be used.
    """
    if config.images:
        from penstock.imagesets.opening import open_imageset
        from penstock.producer.image_engine import ImageEngine

        images = open_imageset(config.images, config.images_split)
        return ImageEngine(images, batch_images=config.batch_images, num_threads=config.threads)
    if config.backend == "paced":
        from penstock.producer.paced_engine import PacedEngine

        return PacedEngine(config)
    if config.threads:
        # Before torch is loaded: what it loads reads this once.
        os.environ["OMP_NUM_THREADS"] = str(config.threads)
    import torch

    from penstock.producer import model_folder
    from penstock.producer.pipeline_engine import PipelineEngine
    from penstock.producer.stable_diffusion import StableDiffusionEngine

    if config.threads:
        torch.set_num_threads(config.threads)
    kind = model_folder.pipeline_class(model_folder.find(config.model))
    is_ours = kind in model_folder.STABLE_DIFFUSION
    return StableDiffusionEngine(config, recorder) if is_ours else PipelineEngine(config)


def open_filtering(config: ProduceConfig, recorder: Recorder | None = None) -> Engine:
    """The engine for what `config` names, behind a filter by its scorer. Raises ModelError where one cannot be used."""
    engine = open_engine(config, recorder)
    from penstock.producer.filtering import FilteringEngine
    from penstock.producer.scorer import open_scorer

    return FilteringEngine(engine, open_scorer(config.scorer, config.device, config.dtype), config.batch_images)


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
