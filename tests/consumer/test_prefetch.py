"""The prefetcher: one batch ahead and no more, what counts is what was taken, and an end however it waits."""

import threading
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.consumer.batch import Reader, collate
from penstock.consumer.config import TrainConfig
from penstock.consumer.feed import Feed
from penstock.consumer.feed_state import FeedState
from penstock.consumer.group import Group
from penstock.consumer.ledger import Ledger
from penstock.consumer.ledger_reader import read_steps
from penstock.consumer.making_config import GeneratorConfig
from penstock.consumer.prefetch import Prefetcher
from penstock.consumer.prompts.toyworld import ToyWorldPrompts
from penstock.consumer.prompts.writer import TicketWriter
from penstock.consumer.reservoir import Reservoir, Use
from penstock.consumer.reuse import ReusePolicy
from penstock.consumer.schedule import Share, open_order
from penstock.protocol.errors import RunError, StarvedError
from penstock.protocol.messages import Ack, Result
from penstock.protocol.sockets import RankSocket
from penstock.protocol.tickets import Ticket
from penstock.telemetry.recorder import Flow, Recorder
from tests.consumer.stream_bench import StreamBench, until
from tests.protocol.samples import MANIFEST, RECIPE

WAIT_S = 20.0


def _value_of(index: int) -> int:
    """What every pixel of this group is."""
    return 1 + index % 250


class _Tap:
    """A stream that gives a group whenever the test lets one through."""

    def __init__(self) -> None:
        self.let_through = threading.Semaphore(0)
        self.given = 0
        self.error: Exception | None = None
        self._tickets: Iterator[Ticket] = iter(())
        self._abandoned = False

    def ask(self, tickets: Iterator[Ticket], stand_in: Callable[[Ticket], Ticket]) -> None:
        self._tickets = tickets

    def get(self) -> Group:
        assert self.let_through.acquire(timeout=WAIT_S)
        if self.error:
            raise self.error
        if self._abandoned:
            raise RunError("abandoned")
        self.given += 1
        ticket = next(self._tickets)
        return Group(ticket, np.full(ticket.recipe.shape, _value_of(ticket.index), np.uint8), "ann", MANIFEST)

    def poll(self) -> Group | None:
        return None

    def quarantined(self) -> list[object]:
        return []

    def abandon(self) -> None:
        self._abandoned = True
        self.let_through.release()


def _batches(
    tap: object,
    folder: Path,
    *,
    steps: range = range(100),
    device: str = "cpu",
    reuse: int = 1,
    concept: Callable[[Ticket], int] = lambda ticket: -1,
    recorder: Recorder | None = None,
) -> Prefetcher:
    """Batches of two groups, each used `reuse` times."""
    config = TrainConfig(generator=GeneratorConfig(images_per_group=2, height=8, width=8))
    share = Share(rank=0, world_size=1, seed=0, groups_per_step=2, capacity_groups=4, policy=ReusePolicy.fixed(reuse))
    feed = Feed(
        stream=tap,  # type: ignore[arg-type]
        writer=TicketWriter(ToyWorldPrompts(0), config, "d1"),
        order=open_order("arrival", share),
        reservoir=Reservoir(capacity_groups=4, policy=share.policy),
        state=FeedState.beginning(0, 1),
        step=0,
        seed=0,
        images_per_use=0,
        pin_memory=device == "cuda",
        reader=Reader(concept),
        recorder=recorder,
    )
    return Prefetcher(
        feed,
        Ledger(folder / "ledger-0.sqlite", {}),
        torch.device(device),
        steps,
        keeps_state=lambda step: step % 2 == 0,
        recorder=recorder,
    )


def test_the_next_batch_is_prepared_while_the_step_runs_and_only_that(tmp_path: Path) -> None:
    tap = _Tap()
    tap.let_through.release(100)
    with _batches(tap, tmp_path) as batches:
        until(lambda: tap.given == 2)
        batches.take(0)
        until(lambda: tap.given == 4)
        waited = batches.wait_s
        batches.take(1)
        assert batches.wait_s - waited < 1, "it was there"
        until(lambda: tap.given == 6)
        time.sleep(0.1)
        assert tap.given == 6, "one batch ahead, no more"


def test_a_wait_is_seen_while_it_lasts_and_counted_once(tmp_path: Path) -> None:
    tap = _Tap()
    with _batches(tap, tmp_path) as batches:
        assert batches.look().wait_s == 0

        def see_it_and_end_it() -> None:
            until(lambda: batches.look().wait_s > 0.05)
            tap.let_through.release(2)

        looker = threading.Thread(target=see_it_and_end_it)
        begun = time.monotonic()
        looker.start()
        batches.take(0)
        took_s = time.monotonic() - begun
        looker.join(WAIT_S)
        assert 0.05 < batches.look().wait_s <= took_s
        assert batches.look().wait_s == batches.wait_s, "the wait is over"


def test_only_what_was_taken_counts(tmp_path: Path) -> None:
    tap = _Tap()
    tap.let_through.release(100)
    with _batches(tap, tmp_path) as batches:
        batches.take(0)
        until(lambda: tap.given == 4)
        assert batches.state.cursor == 2, "the cursor stands at the step, not at the prefetch"
        assert read_steps(tmp_path) == {0: (0, 1)}
        assert batches.groups_by_uses == [0, 2]
        batches.take(1)
        with pytest.raises(ValueError, match="was not asked for"):
            batches.state  # noqa: B018 - the property raises


def test_concepts_are_counted_when_a_group_is_first_used_and_not_when_it_is_prepared(tmp_path: Path) -> None:
    tap = _Tap()
    tap.let_through.release(100)
    source = ToyWorldPrompts(0)
    with _batches(tap, tmp_path, concept=lambda ticket: source.prompt(ticket.index).concept) as batches:
        batches.take(0)
        until(lambda: tap.given == 4)
        assert batches.groups_by_concept == Counter(source.prompt(index).concept for index in range(2))
        batches.take(1)
        assert batches.groups_by_concept == Counter(source.prompt(index).concept for index in range(4))


def test_a_group_that_is_used_again_counts_once_for_its_concept(tmp_path: Path) -> None:
    tap = _Tap()
    tap.let_through.release(100)
    with _batches(tap, tmp_path, reuse=3, concept=lambda ticket: ticket.index % 2) as batches:
        for step in range(6):
            batches.take(step)
        assert batches.groups_by_concept.total() == sum(batches.groups_by_uses[1:])
        assert batches.groups_by_concept.total() < 2 * 6


def test_it_prepares_nothing_beyond_the_last_step(tmp_path: Path) -> None:
    tap = _Tap()
    tap.let_through.release(100)
    with _batches(tap, tmp_path, steps=range(2)) as batches:
        batches.take(0)
        batches.take(1)
        until(lambda: not batches._thread.is_alive())
        assert tap.given == 4
        with pytest.raises(ValueError, match="steps 0 to 1 are prepared, got 2"):
            batches.take(2)


def test_steps_are_taken_in_their_order(tmp_path: Path) -> None:
    tap = _Tap()
    tap.let_through.release(100)
    with _batches(tap, tmp_path) as batches, pytest.raises(ValueError, match="0 is next, got 3"):
        batches.take(3)


def test_an_error_of_the_feed_reaches_the_training_thread(tmp_path: Path) -> None:
    tap = _Tap()
    tap.error = StarvedError("no producer came")
    tap.let_through.release()
    with _batches(tap, tmp_path) as batches:
        for _ in range(2):
            with pytest.raises(StarvedError, match="no producer came"):
                batches.take(0)


def test_closing_ends_a_feed_that_waits(tmp_path: Path) -> None:
    tap = _Tap()
    batches = _batches(tap, tmp_path)
    with batches:
        pass
    assert not batches._thread.is_alive()
    with pytest.raises(RunError):
        batches.take(0)


def test_closing_ends_a_real_stream_that_waits(tmp_path: Path) -> None:
    with StreamBench() as bench:
        stream = bench.start(ask=False)
        batches = _batches(stream, tmp_path)
        with batches:
            until(lambda: stream.waiting() is not None)
            start = time.monotonic()
        assert not batches._thread.is_alive()
        assert time.monotonic() - start < WAIT_S / 2


def test_a_group_s_way_is_noted_from_its_ticket_to_its_first_use(tmp_path: Path) -> None:
    with StreamBench() as bench:
        stream = bench.start(ask=False)
        recorder = stream.recorder
        recorder.trace()
        batches = _batches(stream, tmp_path, steps=range(2), reuse=2, recorder=recorder)
        producer = bench.join(stream)
        with batches:
            for _ in range(2):
                ticket = producer.next_ticket()
                pixels = np.full(ticket.recipe.shape, 9, np.uint8).tobytes()
                figures = {"shape": ticket.recipe.shape, "crc32": zlib.crc32(pixels), "seconds": 0.1}
                producer.say(Result(index=ticket.index, attempt=ticket.attempt, **figures), pixels)
                producer.hear(Ack)
            taken = [batches.take(step).indices for step in range(2)]
    assert [sorted(indices) for indices in taken] == [[0, 1], [0, 1]]
    events = recorder.drain()
    flows = [(event.stage, event.flow) for event in events if event.ticket == 1 and event.flow]
    assert sorted(flows, key=lambda flow: flow[1]) == [
        ("issue", Flow.BEGIN),
        ("receive", Flow.STEP),
        ("enter", Flow.STEP),
        ("use", Flow.END),
    ]
    threads = {event.stage: event.thread for event in events}
    assert {threads[stage] for stage in ("issue", "receive")} == {"penstock-stream"}
    assert {threads[stage] for stage in ("wait_groups", "enter", "collate", "copy")} == {"penstock-prefetch"}
    assert threads["use"] == threads["wait_batch"] == threading.current_thread().name
    noted = recorder.taken()
    assert {name: noted[name].count for name in ("receive", "collate", "copy", "wait_batch")} == {
        "receive": 2,
        "collate": 2,
        "copy": 2,
        "wait_batch": 2,
    }
    assert noted["wait_batch"].seconds == pytest.approx(batches.wait_s)
    assert noted["sample_age"].count == 4, "of each group of each step, used before or not"
    assert 0 < min(noted["sample_age"].recent_s) <= max(noted["sample_age"].recent_s) < WAIT_S


def test_from_the_wire_to_the_batch_pixels_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the reservoir holds is the memory that the frame landed in; the batch is the only copy of it."""
    recipe = replace(RECIPE, num_images=4, height=512, width=512)
    payloads = [np.full(recipe.nbytes, 1 + index, np.uint8).tobytes() for index in range(4)]
    landed: set[int] = set()
    received = RankSocket.received

    def noting(self: RankSocket) -> Iterator[tuple[bytes, list[memoryview]]]:
        for peer, frames in received(self):
            landed.update(np.frombuffer(frame, np.uint8).ctypes.data for frame in frames)
            yield peer, frames

    monkeypatch.setattr(RankSocket, "received", noting)
    with StreamBench() as bench:
        stream = bench.start(ask=False)
        stream.ask((Ticket(index=index, rank=0, recipe=recipe) for index in range(4)), lambda ticket: ticket)
        producer = bench.join(stream)
        tracemalloc.start()
        try:
            for payload in payloads:
                ticket = producer.next_ticket()
                crc32 = zlib.crc32(payload)
                said = {"index": ticket.index, "attempt": ticket.attempt, "shape": recipe.shape, "seconds": 0.1}
                producer.say(Result(crc32=crc32, **said), payload)
            groups = [stream.get() for _ in payloads]
            batch = collate([Use(group, 0) for group in groups], [range(4)] * 4, pin_memory=False)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert {group.images.ctypes.data for group in groups} <= landed
    # The batch is traced, and so would be any copy beside it by numpy or Python, of one group even; frames are not.
    assert peak < batch.images.numel() + recipe.nbytes // 2
    assert [int(batch.images[4 * position].unique()) for position in range(4)] == [1, 2, 3, 4]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_batch_is_there_when_the_step_reads_it(tmp_path: Path) -> None:
    tap = _Tap()
    tap.let_through.release(400)
    with _batches(tap, tmp_path, device="cuda") as batches:
        for step in range(50):
            batch = batches.take(step)
            assert batch.images.device.type == "cuda"
            # A batch that is read too early holds what was there before.
            values = [_value_of(index) for index in batch.indices for _ in range(2)]
            assert [image.unique().tolist() for image in batch.images] == [[value] for value in values]


def test_after_the_end_nothing_is_taken_though_it_lies_there(tmp_path: Path) -> None:
    tap = _Tap()
    tap.let_through.release(100)
    with _batches(tap, tmp_path) as batches:
        until(lambda: batches._ready is not None)
    with pytest.raises(RunError, match="closed"):
        batches.take(0)
