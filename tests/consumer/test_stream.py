"""The rank's stream against a real socket: window, waiting, starvation, and broken producers."""

import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from penstock.consumer import stream as stream_module
from penstock.consumer.config import StreamConfig
from penstock.consumer.stream import GroupStream
from penstock.protocol.codec import decode, encode
from penstock.protocol.errors import RunError, StarvedError
from penstock.protocol.limits import PROTOCOL_VERSION
from penstock.protocol.messages import (
    Ack,
    Bye,
    Header,
    Heartbeat,
    Hello,
    Message,
    Nack,
    Ready,
    Reject,
    Result,
    Tickets,
    Welcome,
)
from penstock.protocol.rank_machine import Patience, RankMachine
from penstock.protocol.sockets import ProducerSockets, RankSocket
from penstock.protocol.tickets import Manifest, Recipe, Ticket

WAIT_S = 20.0
RECIPE = Recipe(
    prompt="a red fox",
    seed=7,
    num_images=2,
    guidance_scale=2.0,
    num_inference_steps=8,
    scheduler="default",
    height=4,
    width=5,
    model_digest="d1",
)
MANIFEST = Manifest(
    model="tiny",
    model_digest="d1",
    scheduler="DDIMScheduler",
    dtype="float32",
    backend="eager",
    device="cpu",
    batch_images=8,
    versions={},
)


def _tickets() -> Iterator[Ticket]:
    return (Ticket(index=index, rank=0, recipe=RECIPE) for index in range(10**6))


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class _Producer:
    """A producer in the test's hand: nothing is sent that the test does not say."""

    def __init__(self, endpoint: str, name: str = "ann") -> None:
        self.peer = endpoint.encode()
        self.name = name
        self.sockets = ProducerSockets()
        self.sockets.connect(endpoint)
        self.header = Header()
        self.tickets: list[Ticket] = []

    def say(self, message: Message, payload: bytes | None = None) -> None:
        self.say_bytes(encode(message, self.header), payload)

    def say_bytes(self, frame: bytes, payload: bytes | None = None) -> None:
        _until(lambda: self.sockets.send(self.peer, frame, payload))

    def hear(self, kind: type[Message]) -> Message:
        """Read until a message of this kind comes; tickets on the way are kept."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            for _, frames in self.sockets.recv(timeout_ms=100):
                header, message = decode(frames[0])
                self.header = header
                if isinstance(message, Tickets):
                    self.tickets += message.tickets
                if isinstance(message, kind):
                    return message
        raise AssertionError(f"no {kind.__name__} came")

    def join(self, groups: int = 100) -> None:
        self.say(Hello(producer=self.name, manifest=MANIFEST))
        self.hear(Welcome)
        self.say(Ready(credit_groups=groups, credit_bytes=10**9))

    def make(self) -> None:
        """Make the oldest ticket and wait until it is acknowledged."""
        if not self.tickets:
            self.hear(Tickets)
        ticket = self.tickets.pop(0)
        payload = bytes([ticket.index % 256]) * RECIPE.nbytes
        result = Result(
            index=ticket.index,
            attempt=ticket.attempt,
            shape=RECIPE.shape,
            crc32=zlib.crc32(payload),
            seconds=0.1,
        )
        self.say(result, payload)
        self.hear(Ack)


StartStream = Callable[..., GroupStream]


@pytest.fixture
def start() -> Iterator[StartStream]:
    streams: list[GroupStream] = []

    def start_stream(*, digest: str | None = "d1", timeout_s: float = WAIT_S) -> GroupStream:
        socket = RankSocket("tcp://127.0.0.1:0")
        machine = RankMachine(
            run_id="run",
            incarnation=5,
            rank=0,
            endpoints=(socket.endpoint,),
            model_digest=digest,
            patience=Patience(max_attempts=3),
        )
        stream = GroupStream(socket, machine, StreamConfig(producer_timeout_s=timeout_s))
        streams.append(stream)
        stream.start()
        return stream

    yield start_stream
    for stream in streams:
        stream.close("the test is over")


@pytest.fixture
def join() -> Iterator[Callable[..., _Producer]]:
    producers: list[_Producer] = []

    def join_stream(stream: GroupStream, name: str = "ann", *, hello: bool = True) -> _Producer:
        producer = _Producer(stream._socket.endpoint, name)
        producers.append(producer)
        if hello:
            producer.join()
        return producer

    yield join_stream
    for producer in producers:
        producer.sockets.close()


Join = Callable[..., _Producer]


def test_groups_arrive_with_their_tickets_and_pixels(start: StartStream, join: Join) -> None:
    stream = start()
    stream.ask(_tickets(), 4)
    producer = join(stream)
    for index in range(6):
        producer.make()
        group = stream.get()
        assert group.ticket.index == index
        assert group.images.shape == (2, 4, 5, 3)
        assert group.images.dtype == np.uint8
        assert np.all(group.images == index)
        assert group.producer == "ann"
    stats = stream.stats
    assert (stats.groups, stats.images, stats.image_bytes) == (6, 12, 6 * RECIPE.nbytes)
    assert (stats.producers, stats.producers_seen, stats.rejects) == (1, 1, 0)


def test_asked_and_unused_groups_never_exceed_the_window(start: StartStream, join: Join) -> None:
    stream = start()
    stream.ask(_tickets(), 5)
    producer = join(stream)
    producer.hear(Tickets)
    for _ in range(5):
        producer.make()
        stats = stream.stats
        assert stats.waiting_groups + stats.buffered_groups <= 5
    # The window is full of unused groups: a heartbeat's answer proves that nothing more was asked for.
    producer.say(Heartbeat(held=()))
    assert producer.hear(Heartbeat) == Heartbeat(held=())
    assert producer.tickets == []
    assert stream.stats.buffered_groups == 5
    stream.get()
    producer.hear(Tickets)
    assert [ticket.index for ticket in producer.tickets] == [5]


def test_poll_gives_what_is_there_and_does_not_wait(start: StartStream, join: Join) -> None:
    stream = start()
    assert stream.poll() is None
    stream.ask(_tickets(), 1)
    join(stream).make()
    group = stream.poll()
    assert group is not None
    assert group.ticket.index == 0
    assert stream.poll() is None


def test_no_producer_at_all_names_the_command_that_starts_one(start: StartStream) -> None:
    stream = start(timeout_s=0.3, digest=None)
    begun = time.monotonic()
    with pytest.raises(StarvedError) as caught:
        stream.wait_for_model()
    assert time.monotonic() - begun < 5
    text = str(caught.value)
    assert "no producer came in" in text
    command = re.search(r"penstock produce --connect (\S+)", text)
    assert command
    assert command[1] == stream._socket.endpoint
    assert "\n" not in text


def test_producers_that_deliver_nothing_are_named(start: StartStream, join: Join) -> None:
    stream = start(timeout_s=0.5)
    stream.ask(_tickets(), 4)
    join(stream, "bob")
    with pytest.raises(StarvedError, match=r"1 producers? .*bob.*producer_timeout_s"):
        stream.get()


def test_producers_that_have_left_are_missed(start: StartStream, join: Join) -> None:
    stream = start(timeout_s=0.5)
    stream.ask(_tickets(), 4)
    producer = join(stream)
    producer.make()
    stream.get()
    producer.say(Bye(reason="drained"))
    with pytest.raises(StarvedError, match="no producer is left"):
        stream.get()


def test_a_long_pause_of_the_trainer_is_not_the_producers_fault(
    start: StartStream, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_s = 0.0
    clock = time.monotonic
    monkeypatch.setattr(stream_module.time, "monotonic", lambda: clock() + late_s)
    stream = start(timeout_s=5.0)
    stream.ask(_tickets(), 1)
    producer = join(stream)
    producer.make()
    late_s = 6.0
    producer.say(Heartbeat(held=()))
    producer.hear(Heartbeat)
    assert stream.get().ticket.index == 0
    maker = threading.Thread(target=producer.make)
    maker.start()
    assert stream.get().ticket.index == 1, "the window was full, so nothing could come before"
    maker.join()


def test_the_first_producers_model_becomes_the_runs(start: StartStream, join: Join) -> None:
    stream = start(digest=None)
    join(stream)
    assert stream.wait_for_model() == "d1"


def test_a_ticket_that_fails_too_often_ends_the_wait_with_the_cause(start: StartStream, join: Join) -> None:
    stream = start()
    stream.ask(_tickets(), 1)
    producer = join(stream)
    for attempt in range(3):
        while not producer.tickets:
            producer.hear(Tickets)
        ticket = producer.tickets.pop(0)
        assert ticket.attempt == attempt
        producer.say(Nack(index=0, attempt=attempt, reason="no scheduler X", retryable=True))
    with pytest.raises(RunError, match=r"ticket 0 .*no scheduler X"):
        stream.get()
    with pytest.raises(RunError, match="no scheduler X"):
        stream.poll()


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"GET / HTTP/1.1", b"\x80\x04\x95", b"\x91" * 5000])
def test_garbage_is_counted_and_the_stream_goes_on(frame: bytes, start: StartStream, join: Join) -> None:
    stream = start()
    stream.ask(_tickets(), 1)
    bad = join(stream, "bad", hello=False)
    bad.say_bytes(frame)
    bad.hear(Nack)
    assert stream.stats.rejects == 1
    join(stream, "good").make()
    assert stream.get().producer == "good"


def test_a_producer_of_another_version_is_told_so(start: StartStream, join: Join) -> None:
    stream = start()
    old = join(stream, "old", hello=False)
    hello = encode(Hello(producer="old", manifest=MANIFEST), Header())
    old.say_bytes(hello.replace(b"\xa1v\x01", b"\xa1v\x63"))
    reject = old.hear(Reject)
    assert isinstance(reject, Reject)
    assert "99" in reject.reason
    assert str(PROTOCOL_VERSION) in reject.reason


def test_pixels_are_a_view_of_what_came_off_the_wire(start: StartStream, join: Join) -> None:
    stream = start()
    stream.ask(_tickets(), 1)
    join(stream).make()
    assert not stream.get().images.flags.owndata


def test_close_is_bounded_though_a_producer_never_answers(start: StartStream, join: Join) -> None:
    stream = start()
    stream.ask(_tickets(), 3)
    producer = join(stream)
    producer.hear(Tickets)
    begun = time.monotonic()
    stream.close("the run is over")
    assert time.monotonic() - begun < 5


def test_a_producer_that_answers_bye_is_not_waited_for(start: StartStream, join: Join) -> None:
    stream = start()
    producer = join(stream)
    answer = threading.Thread(target=lambda: (producer.hear(Bye), producer.say(Bye(reason="the rank left"))))
    answer.start()
    begun = time.monotonic()
    stream.close("the run is over")
    assert time.monotonic() - begun < stream_module._FAREWELL_S
    answer.join(WAIT_S)
    assert not answer.is_alive()


def test_a_stream_that_never_started_closes() -> None:
    socket = RankSocket("tcp://127.0.0.1:0")
    machine = RankMachine(
        run_id="run",
        incarnation=5,
        rank=1,
        endpoints=(socket.endpoint,),
        model_digest=None,
        patience=Patience(),
    )
    stream = GroupStream(socket, machine, StreamConfig())
    stream.close("the run is over")
    stream.close("the run is over")


class _Flood:
    """A socket behind which somebody never stops talking."""

    endpoint = "tcp://127.0.0.1:1"

    def __init__(self) -> None:
        self.waker = self
        self.open = True

    def wake(self) -> None:
        return None

    def recv(self, timeout_ms: int) -> tuple[bytes, list[memoryview]] | None:
        return (b"stranger", [memoryview(encode(Heartbeat(held=()), Header()))]) if self.open else None

    def send(self, peer: bytes, header: bytes, payload: bytes | None = None) -> bool:
        return False

    def close(self) -> None:
        self.open = False


def test_a_flood_stops_neither_the_clock_nor_the_training_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    socket = _Flood()
    machine = RankMachine(
        run_id="run", incarnation=1, rank=0, endpoints=("tcp://127.0.0.1:1",), model_digest="d1", patience=Patience()
    )
    ticks: list[float] = []
    monkeypatch.setattr(machine, "tick", lambda now: ticks.append(now) or [])
    stream = GroupStream(socket, machine, StreamConfig())  # type: ignore[arg-type]
    stream.start()
    try:
        _until(lambda: len(ticks) >= 3)
        assert stream.poll() is None
    finally:
        socket.close()
        stream.close("the test is over")
