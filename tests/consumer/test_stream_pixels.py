"""Pixels on a rank's stream: inspected without its lock, only where they are wanted; raw or as JPEG."""

import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.consumer import stream as stream_module
from penstock.consumer.ledger import Ledger
from penstock.consumer.ledger_reader import LedgerReader
from penstock.consumer.stream import GroupStream
from penstock.producer.engine import Pending
from penstock.protocol.admission import Expectation
from penstock.protocol.dispatcher import Patience
from penstock.protocol.errors import RejectedError
from penstock.protocol.inspection import inspect
from penstock.protocol.messages import Ack, Nack, Reject, Result, Welcome
from penstock.protocol.tickets import Ticket
from tests.consumer.stream_bench import MANIFEST, WAIT_S, HandProducer, StreamBench, stand_in_for
from tests.producer.live_rank import RunningService, StubEngine
from tests.protocol.pictures import Pixels, claiming, from_jpeg, group, psnr, to_jpeg
from tests.protocol.samples import RECIPE

LOSSY = replace(MANIFEST, codec="jpeg-92")
LARGE = replace(RECIPE, num_images=4, height=96, width=64)
IMAGES = group(4, 96, 64)
JPEGS = [to_jpeg(image) for image in IMAGES]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamBench]:
    with StreamBench() as made:
        yield made
        monkeypatch.setattr(stream_module, "_FAREWELL_S", 0.0)  # these producers answer no BYE


@pytest.fixture
def inspected(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the stream has looked at."""
    calls: list[tuple[Any, ...]] = []

    def spy(*args: Any) -> Any:
        calls.append(args)
        return inspect(*args)

    monkeypatch.setattr(stream_module, "inspect", spy)
    return calls


def _start(bench: StreamBench, **changes: Any) -> GroupStream:
    stream = bench.start(ask=False, **changes)
    stream.ask((Ticket(index=index, rank=0, recipe=LARGE) for index in range(100)), stand_in_for)
    return stream


def _join(bench: StreamBench, stream: GroupStream, name: str = "ann") -> HandProducer:
    producer = bench.dial(stream, name)
    producer.hello(LOSSY)
    producer.hear(Welcome)
    producer.ready()
    return producer


def _result(ticket: Ticket, payload: bytes, **changes: Any) -> Result:
    said: dict[str, Any] = {"shape": LARGE.shape, "crc32": zlib.crc32(payload), "seconds": 0.1}
    return Result(**{"index": ticket.index, "attempt": ticket.attempt} | said | changes)


def _say_jpegs(producer: HandProducer, ticket: Ticket, jpegs: list[bytes]) -> None:
    payload = b"".join(jpegs)
    producer.say(_result(ticket, payload, codec="jpeg", sizes=tuple(map(len, jpegs))), payload)


# --- the lock ---------------------------------------------------------------------------------------------------------


def test_the_training_thread_does_not_wait_while_pixels_are_inspected(
    bench: StreamBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, may_go_on = threading.Event(), threading.Event()

    def slowly(*args: Any) -> Any:
        looking.set()
        assert may_go_on.wait(WAIT_S)
        return inspect(*args)

    monkeypatch.setattr(stream_module, "inspect", slowly)
    stream = _start(bench)
    producer = _join(bench, stream)
    _say_jpegs(producer, producer.next_ticket(), JPEGS)
    assert looking.wait(WAIT_S)
    try:
        assert stream._changed.acquire(timeout=1.0), "somebody holds the lock"
        stream._changed.release()
        assert stream.poll() is None
    finally:
        may_go_on.set()
    assert stream.get().images.shape == LARGE.shape


def test_pixels_that_their_sender_does_not_owe_are_not_looked_at(
    bench: StreamBench, inspected: list[tuple[Any, ...]]
) -> None:
    stream = _start(bench)
    producer = _join(bench, stream)
    ticket = producer.next_ticket()
    raw = IMAGES.tobytes()
    header = producer.header
    for changes, header_changes, word in (
        ({"attempt": 7}, {}, "stale"),
        ({"index": 99}, {}, "stale"),
        ({}, {"incarnation": header.incarnation + 1}, "life"),
        ({}, {"run": "another"}, "life"),
    ):
        producer.header = replace(header, **header_changes)
        producer.say(_result(ticket, raw, **changes), raw)
        assert producer.hear(Nack).reason.startswith(word)
        producer.header = header
    producer._seq -= 3  # the number of the last one that counted
    producer.say(_result(ticket, raw), raw)
    assert producer.hear(Nack).reason.startswith("sequence")
    assert inspected == []
    producer.say(_result(ticket, raw), raw)
    producer.hear(Ack)
    producer.say(_result(ticket, raw), raw)
    assert producer.hear(Nack).reason.startswith("stale")
    assert len(inspected) == 1, "what was owed, once"


def test_raw_pixels_of_a_group_are_a_view_of_their_frame(bench: StreamBench, inspected: list[tuple[Any, ...]]) -> None:
    stream = _start(bench)
    producer = _join(bench, stream)
    raw = IMAGES.tobytes()
    producer.say(_result(producer.next_ticket(), raw), raw)
    images = stream.get().images
    [(_, _, _, frame)] = inspected
    assert np.array_equal(images, IMAGES)
    assert np.shares_memory(images, np.frombuffer(frame, np.uint8))


def test_a_small_group_keeps_nothing_of_libzmq_s_buffer_alive(
    bench: StreamBench, inspected: list[tuple[Any, ...]]
) -> None:
    stream = bench.start()
    producer = bench.join(stream)
    producer.make()
    images = stream.get().images
    [(_, _, _, frame)] = inspected
    assert images.nbytes == 120
    assert not np.shares_memory(images, np.frombuffer(frame, np.uint8))


# --- JPEG -------------------------------------------------------------------------------------------------------------


def test_a_group_of_jpegs_arrives_as_pixels_and_counts_what_travelled(bench: StreamBench) -> None:
    stream = _start(bench)
    producer = _join(bench, stream)
    for _ in range(2):
        _say_jpegs(producer, producer.next_ticket(), JPEGS)
    for _ in range(2):
        images = stream.get().images
        assert (images.shape, images.dtype) == (LARGE.shape, np.uint8)
        assert np.abs(images - np.stack([from_jpeg(jpeg) for jpeg in JPEGS]).astype(int)).max() <= 1
    assert (stream.stats.images, stream.stats.image_bytes) == (8, 2 * sum(map(len, JPEGS)))


def test_broken_jpegs_cost_their_sender_and_not_the_stream(bench: StreamBench) -> None:
    stream = _start(bench, window=1)
    mallory = _join(bench, stream, "mallory")
    ticket = mallory.next_ticket()
    for broken in (
        [*JPEGS[:2], JPEGS[2][: len(JPEGS[2]) // 2], JPEGS[3]],
        [*JPEGS[:2], claiming(JPEGS[2], 65500, 65500), JPEGS[3]],
    ):
        _say_jpegs(mallory, ticket, broken)
        nack = mallory.hear(Nack)
        assert (nack.index, nack.retryable) == (0, True)
        assert nack.reason.startswith("jpeg: image 2 of 4: ")
        ticket = mallory.next_ticket()
    _say_jpegs(mallory, ticket, JPEGS[:3])
    assert mallory.hear(Nack).reason.startswith("size: ")
    mallory.hear(Reject)
    ann = _join(bench, stream)
    _say_jpegs(ann, ann.next_ticket(), JPEGS)
    group_of_ann = stream.get()
    assert (group_of_ann.ticket.index, group_of_ann.producer) == (0, "ann")


# --- a producing service at the other end -----------------------------------------------------------------------------


class Painter(StubEngine):
    """Paints pictures; remembers them by index."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, Pixels] = {}

    def generate(self, tickets: Any) -> Pending:
        super().generate(tickets)
        self.made |= {ticket.index: group(*ticket.recipe.shape[:3]) for ticket in tickets}
        return lambda: [self.made[ticket.index] for ticket in tickets]


def _serve(stream: GroupStream, **settings: Any) -> tuple[RunningService, Painter]:
    painter = Painter()
    return RunningService(stream._socket.endpoint, painter, batch_wait_s=0.0, **settings), painter


def test_a_service_sends_jpegs_that_a_stream_decodes(bench: StreamBench, tmp_path: Any) -> None:
    stream = _start(bench, window=4)
    service, painter = _serve(stream, codec="jpeg", jpeg_quality=95)
    groups = [stream.get() for _ in range(6)]
    stream.close("the test is over")
    assert service.end() is None
    for made in groups:
        assert psnr(painter.made[made.ticket.index], made.images) > 40
        assert made.manifest.codec == "jpeg-95"
        assert "simplejpeg" in made.manifest.versions
    assert stream.stats.image_bytes < 6 * LARGE.nbytes / 3
    (tmp_path / "run.json").touch()
    with Ledger(tmp_path / "ledger-0.sqlite", {}) as ledger:
        ledger.group(groups[0])
        ledger.step(0, [groups[0].ticket.index])
    with LedgerReader(tmp_path) as reader:
        assert next(reader.groups()).manifest == groups[0].manifest


def test_a_service_sends_raw_where_jpegs_would_be_larger(bench: StreamBench) -> None:
    stream = bench.start(window=4)
    service, painter = _serve(stream, codec="jpeg")
    made = stream.get()
    assert np.array_equal(made.images, painter.made[made.ticket.index])
    assert made.manifest.codec == "jpeg-92"
    assert stream.stats.image_bytes == stream.stats.groups * RECIPE.nbytes
    stream.close("the test is over")
    assert service.end() is None


def test_a_lossy_service_is_refused_by_name_where_bits_must_be_equal(bench: StreamBench) -> None:
    stream = bench.start(expects=Expectation(model_digest="d1", same_engine=True), order="ticket")
    bench.join(stream, "raw")
    service, _ = _serve(stream, codec="jpeg")
    error = service.end()
    assert isinstance(error, RejectedError)
    assert "codec jpeg-92, the run has raw" in str(error)


def test_time_passes_while_a_stream_decodes(bench: StreamBench) -> None:
    """Many groups at once, of short leases: none is lost, and nothing is asked for twice."""
    stream = _start(bench, window=32, patience=Patience(heartbeat_s=0.1, lease_s=0.5))
    service, _ = _serve(stream, codec="jpeg")
    assert sorted(stream.get().ticket.index for _ in range(40)) == [*range(40)]
    stream.close("the test is over")
    assert service.end() is None
    assert (stream.stats.rejected, stream.stats.expired) == (0, 0)
