"""What probes are told of a producer, against a real rank on the loopback and an engine in the test's hand."""

from collections.abc import Callable

import pytest

from penstock.producer import health as health_module
from penstock.producer.health import producer_health
from penstock.telemetry.health import Health
from tests.faults.programs import wait_until
from tests.producer.live_rank import LiveRank, RunningService, StubEngine

OpenRank = Callable[..., LiveRank]


def _told(running: RunningService) -> tuple[bool, bool, bool]:
    health = producer_health(running.service)
    return health.started, health.alive, health.ready


def test_a_producer_starts_waits_for_a_rank_serves_it_and_drains(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    engine.load_gate.clear()
    engine.gate.clear()
    running = RunningService(rank.socket.endpoint, engine)
    assert producer_health(running.service) == Health(
        started=False, alive=True, ready=False, words="its model loads"
    ), "a model that loads for long is no reason to start anew"
    engine.load_gate.set()
    wait_until(lambda: running.service.is_loaded, "the model is loaded")
    assert producer_health(running.service).words == "no rank has answered"
    assert _told(running) == (True, True, False)
    rank.plan(0)
    rank.run_until(engine.working.is_set)
    assert producer_health(running.service) == Health(started=True, alive=True, ready=True, words="serves 1 ranks")
    running.service.drain()
    assert _told(running) == (True, True, False)
    engine.gate.set()
    rank.run_until(lambda: bool(rank.delivered))
    rank.say_bye()
    assert running.end() is None


def test_a_device_that_hangs_is_told_from_one_that_is_slow(
    open_rank: OpenRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "_HUNG_S", 0.0)
    rank, engine = open_rank(), StubEngine()
    rank.plan(*range(100))
    engine.gate.clear()
    running = RunningService(rank.socket.endpoint, engine)
    rank.run_until(engine.working.is_set)
    assert producer_health(running.service).alive, "nobody knows yet how long its first batch takes"
    engine.gate.set()
    rank.run_until(lambda: len(rank.delivered) >= 8)
    engine.gate.clear()
    engine.working.clear()
    rank.run_until(engine.working.is_set)
    engine.work.longest_s = 1000.0
    assert producer_health(running.service).alive
    engine.work.longest_s = 1e-9
    health = producer_health(running.service)
    assert (health.alive, health.ready) == (False, False)
    assert health.words.startswith("its device hangs: nothing finished for ")
    engine.gate.set()
    rank.say_bye()
    assert running.end() is None


def test_a_thread_that_has_broken_makes_it_dead_while_its_engine_still_works(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    rank.plan(0)
    engine.gate.clear()
    running = RunningService(rank.socket.endpoint, engine)
    rank.run_until(engine.working.is_set)
    running.service._break(OSError("no such socket"))
    assert producer_health(running.service) == Health(
        started=True, alive=False, ready=False, words="broken: OSError('no such socket')"
    )
    engine.gate.set()
    assert isinstance(running.end(), OSError)
