"""The fleet on paper does what the pencil says: times by hand, shares by arithmetic, nothing lost and nothing twice."""

import importlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("churn", "costs", "network", "setting", "timeline", "world")


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return SimpleNamespace(**{name: importlib.import_module(f"simulation.{name}") for name in NAMES})


def _costs(sim: SimpleNamespace, **changes: float) -> Any:
    free = {"hear_s": 0.0, "say_s": 0.0, "ticket_s": 0.0, "inspect_s_per_byte": 0.0, "machine_s": 0.0}
    return sim.costs.Costs(**(free | {"small_bytes": 100, "attempt_bytes": 20, "ticket_bytes": 400} | changes))


def test_events_happen_in_the_order_of_time_and_of_asking(sim: SimpleNamespace) -> None:
    line, seen = sim.timeline.Timeline(), []
    for when, what in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (9.0, "never")):
        line.at(when, lambda what=what: seen.append((line.now, what)))
    line.run(5.0)
    assert seen == [(1.0, "a"), (1.0, "b"), (2.0, "c")]
    assert line.now == 5.0


def test_a_message_waits_for_both_cards_the_wire_and_the_core(sim: SimpleNamespace) -> None:
    """1,000 bytes: 1 ms out, 2 ms of latency, 0.5 ms in, 4 ms to be heard; the next waits behind it."""
    line = sim.timeline.Timeline()
    network, there = sim.network.Network(line, 0.002), sim.network.Host(2e6)
    wire, heard = sim.network.Line(b"x", 0), []
    for _ in range(2):
        network.send(wire, sim.network.Host(1e6), there, 1000, 0.004, lambda: heard.append(line.now))
    line.run(1.0)
    assert heard == pytest.approx([0.0075, 0.0115])
    assert (there.num_messages, there.num_bytes) == (2, 2000)
    assert there.cpu_s == pytest.approx(0.008)


def test_what_is_sent_into_a_cut_arrives_after_it_in_its_order(sim: SimpleNamespace) -> None:
    line = sim.timeline.Timeline()
    network, here, there = sim.network.Network(line, 0.0), sim.network.Host(1e9), sim.network.Host(1e9)
    wire, heard = sim.network.Line(b"x", 0), []
    wire.cut_until = 3.0
    for what in "ab":
        network.send(wire, here, there, 0, 0.0, heard.append, what)
    line.run(2.9)
    assert heard == []
    line.run(3.1)
    assert heard == ["a", "b"]


def test_a_poisson_trace_has_its_rate_and_its_kinds(sim: SimpleNamespace) -> None:
    losses = sim.churn.losses("poisson", 1000, 0.05, 0.0, 6000.0, seed=3)
    assert len(losses) == pytest.approx(5000, abs=4 * 5000**0.5)
    assert all(0 <= loss.at < 6000 for loss in losses)
    assert [loss.at for loss in losses] == sorted(loss.at for loss in losses)
    kinds = Counter(loss.how for loss in losses)
    assert all(count == pytest.approx(len(losses) / 3, rel=0.1) for count in kinds.values())
    assert losses == sim.churn.losses("poisson", 1000, 0.05, 0.0, 6000.0, seed=3)
    assert losses != sim.churn.losses("poisson", 1000, 0.05, 0.0, 6000.0, seed=4)


def test_a_burst_loses_a_minutes_share_at_one_moment(sim: SimpleNamespace) -> None:
    losses = sim.churn.losses("bursts", 200, 0.05, 0.0, 120.0, seed=0)
    assert Counter(loss.at for loss in losses) == {5.0: 10, 65.0: 10}
    assert {loss.how for loss in losses} == {"vanish"}
    assert len({loss.number for loss in losses if loss.at == 5.0}) == 10, "each once"


def _world(sim: SimpleNamespace, **changes: Any) -> Any:
    fleet = {"producers": 6, "ranks": 2, "spread": 0.0, "tick_s": 0.1, "seed": 5}
    return sim.world.World(sim.setting.Setting(**(fleet | changes)), _costs(sim))


@pytest.mark.parametrize("order", ["arrival", "ticket"])
def test_a_fleet_that_loses_nobody_makes_what_it_can(sim: SimpleNamespace, order: str) -> None:
    outcome = _world(sim, order=order).run([], 20.0, 60.0)
    assert outcome.ideal_images_per_s == pytest.approx(60.0)
    assert 0.95 < outcome.achieved < 1.05
    assert outcome.lost == outcome.expired == 0


def test_a_trainer_that_is_slower_than_the_fleet_bounds_the_run(sim: SimpleNamespace) -> None:
    outcome = _world(sim, trainer_share=0.5).run([], 20.0, 60.0)
    assert outcome.achieved == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("how", ["notice", "kill", "vanish", "cut"])
@pytest.mark.parametrize("order", ["arrival", "ticket"])
def test_what_a_lost_producer_held_is_made_by_others_and_nothing_twice(
    sim: SimpleNamespace, how: str, order: str
) -> None:
    world = _world(sim, order=order)
    delivered: list[int] = []
    for rank in world.ranks:
        take = rank.machine.take
        rank.machine.take = lambda index, take=take: (delivered.append(index), take(index))
    outcome = world.run([sim.churn.Loss(21.0, 2, how), sim.churn.Loss(22.0, 4, how)], 20.0, 70.0)
    assert outcome.lost == 2
    assert len(delivered) == len(set(delivered)), "nothing twice"
    # What is planned and not taken lies in the windows; before it there is no hole.
    window = world.setting.ranks * world.setting.rank_window
    assert max(delivered) < len(delivered) + window
    if how != "notice":
        assert all(not rank.lost_at for rank in world.ranks), "every ticket of the lost ones has come"
        # A connection that ends is noticed at the next heartbeat, a machine that vanishes when leases run out.
        assert outcome.recovery_s[2] < (15.0 if how == "kill" else 30.0)
    gone = sum(producer.gone for producer in world.producers)
    assert gone == 0, "others have come in their place"


def test_padding_takes_the_time_of_images(sim: SimpleNamespace) -> None:
    """A window of four groups for a batch of eight: half of each is padding, after a wait of 2 s beside its 3.2 s."""
    fleet = {"producers": 1, "ranks": 1, "window_groups": 4, "steps_per_s": 1.25}
    shares = [_world(sim, **fleet, padding_takes_time=takes).run([], 20.0, 104.0).achieved for takes in (True, False)]
    assert shares == pytest.approx([1.6 / 5.2, 1.6 / 3.6], rel=0.1)


def test_what_never_comes_counts_as_the_longest_recovery(sim: SimpleNamespace) -> None:
    world = _world(sim, producers=4, ranks=1)
    losses = [sim.churn.Loss(25.0, number, "kill") for number in (0, 1)]
    world.timeline.at(25.5, lambda: world.ranks[0].lost_at.update({-1: 25.5}))
    outcome = world.run(losses, 20.0, 60.0)
    assert outcome.recovery_s[2] == pytest.approx(80.0 - 25.5)
    assert outcome.recovery_s[1] < 20.0


def test_no_rank_is_left_alone_where_all_producers_have_drawn_others(sim: SimpleNamespace) -> None:
    """Three producers that draw two ranks each cannot serve twelve; as they find nothing to do they serve more."""
    outcome = _world(sim, producers=3, ranks=12, max_ranks=2).run([], 130.0, 60.0)
    assert outcome.achieved > 0.9


def test_a_core_that_is_too_slow_bounds_the_run(sim: SimpleNamespace) -> None:
    setting = sim.setting.Setting(producers=6, ranks=2, spread=0.0)
    outcome = sim.world.World(setting, _costs(sim, inspect_s_per_byte=5e-7)).run([], 20.0, 60.0)
    # 0.39 s for a group of 786,432 bytes: 2.54 groups/s of each of two ranks, of the 7.5 that come to it.
    assert outcome.busiest_cpu > 0.95
    assert outcome.achieved == pytest.approx(2.54 / 7.5, rel=0.1)


def test_the_benchmark_tells_its_figures(tmp_path: Path) -> None:
    figures = tmp_path / "scale.json"
    command = [sys.executable, str(BENCHMARKS / "scale.py"), "--quick", "--real", "", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    result = json.loads(figures.read_text())
    [cell] = result["cells"]
    assert result["worst_achieved"] == cell["achieved"] == cell["images_per_s"] / cell["ideal_images_per_s"]
    assert 0.8 < cell["achieved"] < 1.1
    assert [row["producers"] for row in result["one_rank"]] == [10, 100]
    assert result["largest_error"] is None
