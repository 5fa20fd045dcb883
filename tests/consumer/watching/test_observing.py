"""What a view says of a rank, against what producers in the test's hand have done and a clock that the test moves."""

import logging
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from penstock.consumer import stream as stream_module
from penstock.consumer.filter_counts import FilterCounts
from penstock.consumer.group import Group
from penstock.consumer.prefetch import BatchesLook, Prefetcher
from penstock.consumer.record import Record
from penstock.consumer.run_folder import RunFolder
from penstock.consumer.stream import GroupStream
from penstock.consumer.watching import observing
from penstock.consumer.watching.event_log import KEPT, EventLog
from penstock.consumer.watching.observed import Observed
from penstock.consumer.watching.observing import Looker, Observer, thinned
from penstock.protocol.messages import Bye
from penstock.protocol.tickets import Ticket
from penstock.protocol.watching import Status
from penstock.telemetry.recorder import Recorder
from penstock.telemetry.run_view import RunView
from tests.consumer.stream_bench import RECIPE, StreamBench, colour_of, until
from tests.consumer.tiny_training import tiny_config

S = 1_000_000_000


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamBench]:
    with StreamBench() as made:
        yield made
        monkeypatch.setattr(stream_module, "_FAREWELL_S", 0.0)  # these producers answer no BYE


class Watched:
    """A rank whose clock and steps are the test's."""

    def __init__(self, stream: GroupStream, num_groups: int = 0) -> None:
        config = tiny_config("stablerep", groups=2, images=2, max_steps=100)
        self.batches = BatchesLook(reservoir_groups=3, reservoir_bytes=9, capacity_groups=8, is_ready=True, wait_s=0.0)
        self.observed = Observed(
            config=config,
            folder=RunFolder(Path("runs/\x1b[2J"), "run", 5),
            rank=0,
            world_size=1,
            recorder=Recorder(),
            stream=stream,
            record=Record(),
            batches=cast(Prefetcher, SimpleNamespace(look=lambda: self.batches, filter_counts=None)),
            started_at=1000.0,
        )
        self.looker = Looker(self.observed, num_groups)
        self.now = 0.0

    def look(self, after_s: float = 1.0) -> RunView:
        self.now += after_s
        return self.looker.look(self.now, 1000.0 + self.now)

    def go(self, seconds: int, *, steps_per_s: int, data_wait: float = 0.0) -> RunView:
        view = self.look()
        for _ in range(seconds):
            self.observed.steps += steps_per_s
            self.batches = BatchesLook(
                reservoir_groups=3,
                reservoir_bytes=9,
                capacity_groups=8,
                is_ready=True,
                wait_s=self.batches.wait_s + data_wait,
            )
            view = self.look()
        return view


def test_a_view_counts_what_has_come_and_been_trained_on(bench: StreamBench) -> None:
    stream = bench.start(window=6)
    watched = Watched(stream)
    producer = bench.join(stream)
    watched.look()
    for _ in range(4):
        producer.make()
    stream.get()
    until(lambda: stream.look().held == 3)
    view = watched.go(8, steps_per_s=3)
    assert (view.images_made, view.step, view.max_steps, view.images_trained) == (8, 24, 100, 24 * 4)
    assert view.trained_per_s == pytest.approx(24 * 4 / 9)  # since the first look, at 1 s; the last is at 10 s
    assert view.made_per_s == pytest.approx(8 / 9)
    assert view.bytes_per_s == pytest.approx(4 * RECIPE.nbytes / 9)
    assert view.reuse == 24 * 4 / 8
    assert view.seconds == watched.now
    assert view.run_dir == "runs/\\x1b[2J"
    queues = {queue.name: (queue.filled, queue.capacity) for queue in view.queues}
    # The window of 6 has 3 groups that nobody has taken, and so 3 tickets.
    assert queues == {"tickets": (3, 6), "arrived": (3, 6), "reservoir": (3, 8), "batches": (1, 1)}
    [ann] = view.producers
    assert (ann.name, ann.state, ann.images, ann.held, ann.credit_groups) == ("ann", "ready", 8, 3, 100)
    assert ann.images_per_s == pytest.approx(8 / 9)


def test_a_producer_that_has_left_stays_in_view_for_a_while_and_counts_on_when_it_is_back(bench: StreamBench) -> None:
    stream = bench.start()
    watched = Watched(stream)
    producer = bench.join(stream)
    producer.make()
    watched.look()
    producer.say(Bye(reason="pre-empted"))
    until(lambda: not stream.look().peers)
    [gone] = watched.look().producers
    assert (gone.name, gone.state, gone.images, gone.images_per_s, gone.held) == ("ann", "gone", 2, 0, 0)
    assert watched.look(60).producers[0].silent_s > 60
    again = bench.join(stream)
    again.make()
    [back] = watched.look().producers
    assert (back.state, back.images) == ("ready", 4)
    again.say(Bye(reason="pre-empted"))
    until(lambda: not stream.look().peers)
    assert len(watched.look().producers) == 1
    assert watched.look(301).producers == ()


def test_two_producers_of_one_name_are_two(bench: StreamBench) -> None:
    stream = bench.start()
    bench.join(stream)
    bench.join(stream)
    until(lambda: len(stream.look().peers) == 2)
    assert [producer.name for producer in Watched(stream).look().producers] == ["ann", "ann (2)"]


def test_a_run_waits_then_goes_then_stalls_then_goes_again_then_ends(bench: StreamBench) -> None:
    stream = bench.start(window=2)
    watched = Watched(stream)
    view = watched.look()
    assert view.state == "waiting"
    assert view.waiting_for == (
        f"waiting for the first producer; start one: penstock produce --connect {stream._socket.endpoint}"
    )
    producer = bench.join(stream)
    producer.make()
    stream.get()
    assert watched.go(10, steps_per_s=1).state == "running"
    taker = threading.Thread(target=stream.get, daemon=True)
    taker.start()
    until(lambda: stream.waiting() is not None)
    view = watched.look(4)
    assert (view.state, view.waiting_for) == ("running", None)
    for _ in range(8):
        view = watched.look()
    assert view.state == "stalled"
    assert view.waiting_for is not None
    assert "ticket 1" in view.waiting_for
    assert "ann" in view.waiting_for
    producer.make()
    taker.join(10)
    assert watched.look().state == "stalled"  # a group has come; no step has been done
    watched.observed.steps += 1
    view = watched.look()
    assert (view.state, view.waiting_for) == ("running", None)
    watched.looker.has_ended = True
    assert watched.look().state == "ended"


def test_a_run_that_waits_for_no_group_stalls_only_after_its_time(bench: StreamBench) -> None:
    """An evaluation between two steps may take long."""
    stream = bench.start()
    watched = Watched(stream)
    bench.join(stream).make()
    watched.go(10, steps_per_s=1)
    patience_s = watched.observed.config.stream.stall_report_s
    assert watched.look(patience_s - 1).state == "running"
    view = watched.look(2)
    assert (view.state, view.waiting_for) == ("stalled", "no group, but for the other ranks or its device")


@pytest.mark.parametrize(
    ("data_wait", "waits_for_groups", "side"),
    [(0.3, True, "producers"), (0.3, False, "host"), (0.02, False, "balanced"), (0.0, False, "trainer")],
)
def test_the_verdict_follows_from_who_waits(
    bench: StreamBench, monkeypatch: pytest.MonkeyPatch, data_wait: float, waits_for_groups: bool, side: str
) -> None:
    stream = bench.start()
    bench.join(stream).make()
    watched = Watched(stream)
    assert watched.go(2, steps_per_s=3).verdict.side == "not enough data"
    monkeypatch.setattr(stream._machine, "describe_wait", lambda now: "ticket 7")
    if waits_for_groups:
        stream._waited_s = 0.0
    view = watched.go(20, steps_per_s=3, data_wait=data_wait)
    assert view.verdict.side == side
    assert view.data_wait == pytest.approx(data_wait)


def test_stages_and_arithmetic_are_shares_of_the_last_seconds(bench: StreamBench) -> None:
    watched = Watched(bench.start())
    watched.observed.flops_per_step, watched.observed.matrix_flops_per_s = 1e9, 1e10
    watched.look()
    for _ in range(10):
        for took_ns in (S // 10, S // 10, 3 * S // 10):
            watched.observed.recorder.add("collate", 0, took_ns)
        watched.observed.steps += 4
        view = watched.look()
    collate = view.stages["collate"]
    assert (collate.p50_s, collate.p95_s) == pytest.approx((0.1, 0.3))
    assert collate.share == pytest.approx(0.5)
    assert view.flop_share == pytest.approx(0.4)


def test_what_a_filter_rejects_is_a_share_of_what_was_made(bench: StreamBench) -> None:
    watched = Watched(bench.start())
    assert watched.look().filtered is None
    counts = FilterCounts(1, lambda ticket: 0)
    counts.add(
        cast(
            Group,
            SimpleNamespace(
                num_made=8, images=[1] * 6, num_unsatisfied=0, ticket=Ticket(index=0, rank=0, recipe=RECIPE)
            ),
        )
    )
    cast(Any, watched.observed.batches).filter_counts = counts
    assert watched.look().filtered == 0.25


def test_how_busy_a_producer_is_follows_from_what_it_tells(bench: StreamBench) -> None:
    stream = bench.start()
    watched = Watched(stream)
    producer = bench.join(stream)
    assert watched.look().producers[0].busy_share is None
    for second in range(1, 9):
        status = Status(busy_s=0.5 * second, flops=2e9 * second, matrix_flops_per_s=1e10)
        producer.say(status)
        until(lambda status=status: stream.look().peers[0].status == status)
        [ann] = watched.look().producers
    assert (ann.busy_share, ann.flop_share) == pytest.approx((0.5, 0.2))


def test_an_engine_that_makes_one_batch_for_minutes_is_seen_at_work(bench: StreamBench) -> None:
    stream = bench.start()
    watched = Watched(stream)
    producer = bench.join(stream)
    for second in range(1, 9):
        status = Status(busy_s=60.0, unfinished_s=float(second))
        producer.say(status)
        until(lambda status=status: stream.look().peers[0].status == status)
        [ann] = watched.look().producers
    assert ann.busy_share == pytest.approx(1.0)


def test_the_newest_groups_are_small_copies_and_one_look_adds_one(bench: StreamBench) -> None:
    stream = bench.start()
    watched = Watched(stream, num_groups=2)
    producer = bench.join(stream)
    for _ in range(3):
        producer.make()
    assert [group.index for group in watched.look().groups] == [2]
    view = watched.look()
    assert [group.index for group in view.groups] == [2, 1]
    assert (view.groups[0].prompt, view.groups[0].producer) == (RECIPE.prompt, "ann")
    group = stream.get()
    assert np.all(view.groups[1].images == colour_of(group.ticket) + 1)
    assert not np.shares_memory(view.groups[1].images, group.images)
    producer.make()
    assert [group.index for group in watched.look().groups] == [3, 2]


def test_who_shows_no_groups_keeps_none(bench: StreamBench) -> None:
    stream = bench.start()
    bench.join(stream).make()
    assert Watched(stream).look().groups == ()
    assert stream.newest() == []


def test_a_long_curve_is_thinned_out_and_keeps_its_ends_and_its_points() -> None:
    curve = [(step, 1.0 / (1 + step)) for step in range(5000)]
    shown = thinned(curve)
    assert len(shown) <= 257
    assert (shown[0], shown[-1]) == (curve[0], curve[-1])
    assert set(shown) <= set(curve)
    assert set(shown[:-1]) <= set(thinned([*curve[:-1], (5000, 0.0)]))
    assert thinned(curve[:100]) == tuple(curve[:100])


def test_the_log_is_kept_without_control_characters_and_without_end() -> None:
    log = logging.getLogger("penstock.test_observing")
    with EventLog() as events:
        for number in range(KEPT + 10):
            log.warning("line %d of \x1b[2J a peer", number)
        first, *_, last = events.last
    log.warning("nobody listens")
    assert len(events.last) == KEPT
    assert (first.text, first.is_warning) == ("line 10 of \\x1b[2J a peer", True)
    assert last.text == f"line {KEPT + 9} of \\x1b[2J a peer"
    assert events.last[-1] == last


def test_a_line_of_the_log_whose_values_do_not_fit_ends_nobody() -> None:
    events = EventLog()
    events.handle(logging.LogRecord("library", logging.INFO, "", 0, "%d images", ("many",), None))
    assert [event.text for event in events.last] == ["%d images"]


def test_one_thread_looks_whatever_the_number_of_viewers(bench: StreamBench, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    stream = bench.start()
    look = stream.look

    def counted() -> Any:
        nonlocal looks
        looks += 1
        return look()

    monkeypatch.setattr(stream, "look", counted)
    monkeypatch.setattr(observing, "LOOK_EVERY_S", 0.02)
    with Observer(Watched(stream).observed) as observer:
        before = looks
        views = [observer.view() for _ in range(1000)]
        assert looks - before <= 5
        until(lambda: observer.view().at > views[-1].at)
        observer.end()
        until(lambda: observer.view().state == "ended")


def test_a_slow_look_makes_looks_rarer(bench: StreamBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "LOOK_EVERY_S", 0.001)
    began: list[float] = []

    def look(*_: object) -> None:
        began.append(time.monotonic())
        busy_until = time.thread_time() + 0.01
        while time.thread_time() < busy_until:
            pass

    monkeypatch.setattr(Looker, "look", look)
    with Observer(Watched(bench.start()).observed):
        until(lambda: len(began) >= 4)
    assert all(after - before > 0.2 for before, after in pairwise(began[1:]))


def test_a_defect_in_looking_is_told_once_and_ends_neither_the_run_nor_the_view(
    bench: StreamBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(observing, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(observing, "_AFTER_DEFECT_S", 0.01)
    looks = 0

    def broken(*_: object) -> RunView:
        nonlocal looks
        looks += 1
        raise KeyError

    look = Looker.look
    with Observer(Watched(bench.start()).observed) as observer:
        monkeypatch.setattr(Looker, "look", broken)
        until(lambda: looks >= 3)
        assert observer.view().state == "waiting"
        monkeypatch.setattr(Looker, "look", look)
        observer.end()
        until(lambda: observer.view().state == "ended")
    assert caplog.text.count("has a defect") == 1
