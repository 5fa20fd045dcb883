"""What a scheduler's probes are told of a rank."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from penstock.consumer.record import Record
from penstock.consumer.run_folder import RunFolder
from penstock.consumer.watching.health import rank_health
from penstock.consumer.watching.observed import Observed
from penstock.telemetry.health import Health
from penstock.telemetry.recorder import Recorder
from tests.consumer.tiny_training import tiny_config


def test_a_rank_is_ready_once_it_knows_its_producers_and_never_dead() -> None:
    observed = Observed(
        config=tiny_config("stablerep", groups=4, images=2, max_steps=100),
        folder=RunFolder(Path("runs/x"), "1234abcd", 5),
        rank=0,
        world_size=1,
        recorder=Recorder(),
        stream=cast(Any, SimpleNamespace()),
        record=Record(),
        steps=7,
    )
    assert rank_health(observed) == Health(
        started=True, alive=True, ready=False, words="waits for its first producer at step 7 of 100"
    )
    observed.batches = cast(Any, SimpleNamespace())
    assert rank_health(observed) == Health(started=True, alive=True, ready=True, words="step 7 of 100")
