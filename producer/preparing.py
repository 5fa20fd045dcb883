"""`penstock compile`: build a backend's networks ahead, so that a producer that starts later only loads them."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.config.load import load_config
from penstock.config.process import configure_logging
from penstock.config.rules import require
from penstock.producer.__main__ import PRESETS, open_engine
from penstock.producer.config import ProduceConfig
from penstock.protocol.errors import ConfigError
from penstock.protocol.tickets import check_native_size

_log = logging.getLogger("penstock.compile")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileConfig(ProduceConfig):
    """Builds what `penstock produce` with the same settings would build, checks it against eager, and ends."""

    native_height: int = 0
    """Pixels at which images are generated, as the run's `generator.native_height`; 0 is the model's own size."""
    native_width: int = 0
    """Likewise."""

    def __post_init__(self) -> None:
        # Not by super(): a dataclass with slots is another class than the one that its methods know.
        ProduceConfig.__post_init__(self)
        check_native_size(self.native_height, self.native_width, require)


def main(argv: Sequence[str]) -> int:
    """Build, and say how long it took. Returns the exit status."""
    config = load_config(
        CompileConfig,
        argv,
        preset_dir=PRESETS,
        prog="penstock compile",
        description="Prepare a model for a backend, so that producers start in seconds.",
    )
    configure_logging("compile")
    if config.backend not in ("inductor", "tensorrt"):
        raise ConfigError(f"backend {config.backend} compiles nothing; give --backend inductor or --backend tensorrt")
    begun = time.monotonic()
    engine = open_engine(config)
    engine.load()
    from penstock.producer.stable_diffusion import StableDiffusionEngine

    if config.native_height and isinstance(engine, StableDiffusionEngine):
        engine.prepare(config.native_height, config.native_width)
    _log.info("ready for %s after %.0f s", config.backend, time.monotonic() - begun)
    return 0
