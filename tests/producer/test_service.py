"""The generate-and-send loop with a stub engine, against a real rank on the loopback."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from penstock.producer.config import ProduceConfig
from penstock.producer.engine import Images
from penstock.producer.service import ProducerService
from penstock.protocol.actions import Action, Deliver, Fail, Note, Send
from penstock.protocol.codec import decode, encode
from penstock.protocol.errors import EndpointError, ModelError, RejectedError, StarvedError
from penstock.protocol.messages import Header
from penstock.protocol.rank_machine import Patience, RankMachine
from penstock.protocol.sockets import RankSocket
from penstock.protocol.tickets import Manifest, Recipe, Ticket

WAIT_S = 20.0
RECIPE = Recipe(
    prompt="a red fox",
    seed=7,
    num_images=2,
    guidance_scale=2.0,
    num_inference_steps=8,
    scheduler="default",
    height=64,
    width=64,
    model_digest="d1",
)


class _Engine:
    """Paints each group in the colour of its index."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.error: ModelError | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.working = threading.Event()

    @property
    def manifest(self) -> Manifest:
        return Manifest(
            model="stub",
            model_digest="d1",
            scheduler="DDIMScheduler",
            dtype="float32",
            backend="eager",
            device="cpu",
            batch_images=8,
            versions={},
        )

    def generate(self, tickets: Sequence[Ticket]) -> list[Images]:
        self.working.set()
        assert self.gate.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        self.batches.append(sum(ticket.recipe.num_images for ticket in tickets))
        return [np.full(ticket.recipe.shape, ticket.index % 256, np.uint8) for ticket in tickets]


class _Rank:
    """A rank in the test's hand."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:0", *, incarnation: int = 1, digest: str = "d1") -> None:
        self.socket = RankSocket(endpoint)
        self.machine = RankMachine(
            run_id="run",
            incarnation=incarnation,
            rank=0,
            endpoints=(self.socket.endpoint,),
            model_digest=digest,
            patience=Patience(heartbeat_s=0.1, lease_s=1.0, max_attempts=3),
        )
        self.delivered: dict[int, Deliver] = {}
        self.failed: list[str] = []

    def plan(self, *indices: int) -> None:
        for index in indices:
            self.machine.plan(Ticket(index=index, rank=0, recipe=RECIPE))

    def run_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline
            received = self.socket.recv(timeout_ms=20)
            now = time.monotonic()
            if received is not None:
                identity, frames = received
                header, message = decode(frames[0])
                payload = frames[1] if len(frames) == 2 else None
                self._perform(self.machine.on_message(identity, header, message, payload, now))
            self._perform(self.machine.tick(now))

    def say_bye(self) -> None:
        self._perform(self.machine.close("the run is over"))

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    header = Header(run="run", incarnation=self.machine.incarnation)
                    self.socket.send(action.peer, encode(action.message, header), action.payload)
                case Deliver():
                    assert action.ticket.index not in self.delivered
                    self.delivered[action.ticket.index] = action
                case Fail():
                    self.failed.append(action.text)
                case _:
                    assert isinstance(action, Note)


class _Running:
    """A service in a thread of its own."""

    def __init__(self, config: ProduceConfig, engine: _Engine) -> None:
        self.service = ProducerService(config, engine)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.service.run()
        except BaseException as error:  # noqa: BLE001 - the test's own thread: `end` hands it on
            self.error = error

    def end(self) -> BaseException | None:
        """Wait for the service's end; what it raised, if anything."""
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()
        return self.error


@pytest.fixture
def ranks() -> Iterator[Callable[..., _Rank]]:
    opened: list[_Rank] = []

    def open_rank(*args: str, **changes: object) -> _Rank:
        opened.append(_Rank(*args, **changes))  # type: ignore[arg-type]
        return opened[-1]

    yield open_rank
    for rank in opened:
        rank.socket.close()


def _config(endpoint: str, **changes: object) -> ProduceConfig:
    config = ProduceConfig(connect=endpoint, name="ann", batch_images=8, trainer_timeout_s=WAIT_S)
    return replace(config, **changes)


def test_groups_are_made_in_batches_and_arrive_whole(ranks: Callable[..., _Rank]) -> None:
    rank, engine = ranks(), _Engine()
    rank.plan(*range(20))
    running = _Running(_config(rank.socket.endpoint), engine)
    rank.run_until(lambda: len(rank.delivered) == 20)
    for index, delivered in rank.delivered.items():
        assert bytes(delivered.payload) == bytes([index]) * RECIPE.nbytes
        assert delivered.producer == "ann"
        assert delivered.manifest == engine.manifest
    assert sum(engine.batches) == 40
    assert max(engine.batches) <= 8
    rank.say_bye()
    assert running.end() is None


def test_no_more_tickets_are_held_than_the_credit(ranks: Callable[..., _Rank]) -> None:
    rank, engine = ranks(), _Engine()
    engine.gate.clear()
    rank.plan(*range(100))
    running = _Running(_config(rank.socket.endpoint, credit_groups=5), engine)
    rank.run_until(engine.working.is_set)
    (peer,) = rank.machine.peers.values()
    assert len(peer.held) == 5
    engine.gate.set()
    rank.say_bye()
    assert running.end() is None


def test_heartbeats_keep_the_leases_while_the_engine_works(ranks: Callable[..., _Rank]) -> None:
    rank, engine = ranks(), _Engine()
    engine.gate.clear()
    rank.plan(*range(3))
    running = _Running(_config(rank.socket.endpoint), engine)
    rank.run_until(engine.working.is_set)
    busy_until = time.monotonic() + 2.5
    rank.run_until(lambda: time.monotonic() > busy_until)
    assert rank.machine.expired == 0, "the lease is 1 s, the batch took 2.5"
    engine.gate.set()
    rank.run_until(lambda: len(rank.delivered) == 3)
    assert all(delivered.ticket.attempt == 0 for delivered in rank.delivered.values())
    rank.say_bye()
    assert running.end() is None


def test_an_incomplete_batch_waits_for_company_and_no_longer_than_it_must(ranks: Callable[..., _Rank]) -> None:
    rank, engine = ranks(), _Engine()
    running = _Running(_config(rank.socket.endpoint, batch_wait_s=1.0), engine)
    rank.run_until(lambda: bool(rank.machine.peers))
    rank.plan(0)
    planned = time.monotonic()
    rank.run_until(lambda: time.monotonic() > planned + 0.3)
    assert not engine.working.is_set()
    rank.plan(1, 2, 3)
    rank.run_until(lambda: len(rank.delivered) == 4)
    rank.plan(4)
    rank.run_until(lambda: len(rank.delivered) == 5)
    assert engine.batches == [8, 2]
    rank.say_bye()
    assert running.end() is None


def test_a_rank_of_another_model_refuses_with_the_digests(ranks: Callable[..., _Rank]) -> None:
    rank = ranks(digest="ffff")
    running = _Running(_config(rank.socket.endpoint), _Engine())
    rank.run_until(lambda: not running.thread.is_alive())
    error = running.end()
    assert isinstance(error, RejectedError)
    assert "ann" in str(error)
    assert "d1" in str(error)
    assert "ffff" in str(error)


def test_a_trainer_that_never_comes_ends_the_wait_within_its_bound() -> None:
    with RankSocketHole() as endpoint:
        begun = time.monotonic()
        running = _Running(_config(endpoint, trainer_timeout_s=0.5), _Engine())
        error = running.end()
        assert time.monotonic() - begun < 5
    assert isinstance(error, StarvedError)
    assert endpoint in str(error)
    assert "accelerate launch consumer" in str(error)


class RankSocketHole:
    """A port that was free a moment ago, and where nobody listens."""

    def __enter__(self) -> str:
        socket = RankSocket("tcp://127.0.0.1:0")
        socket.close()
        return socket.endpoint

    def __exit__(self, *exc: object) -> None:
        return None


def test_a_restarted_trainer_is_served_in_its_new_life(ranks: Callable[..., _Rank]) -> None:
    first = ranks(incarnation=1)
    first.plan(*range(4))
    running = _Running(_config(first.socket.endpoint), _Engine())
    first.run_until(lambda: len(first.delivered) == 4)
    first.socket.close()
    second = ranks(first.socket.endpoint, incarnation=2)
    second.plan(*range(4, 8))
    second.run_until(lambda: len(second.delivered) == 4)
    second.say_bye()
    assert running.end() is None


def test_a_producer_that_is_early_finds_its_trainer(ranks: Callable[..., _Rank]) -> None:
    with RankSocketHole() as endpoint:
        running = _Running(_config(endpoint), _Engine())
    rank = ranks(endpoint)
    rank.plan(0)
    rank.run_until(lambda: len(rank.delivered) == 1)
    rank.say_bye()
    assert running.end() is None


def test_a_ticket_that_the_engine_refuses_is_given_back_with_its_words(ranks: Callable[..., _Rank]) -> None:
    rank, engine = ranks(), _Engine()
    engine.error = ModelError("no scheduler X")
    rank.plan(0)
    running = _Running(_config(rank.socket.endpoint), engine)
    rank.run_until(lambda: bool(rank.failed))
    assert "no scheduler X" in rank.failed[0]
    rank.say_bye()
    assert running.end() is None


def test_bye_in_the_middle_of_a_batch_ends_the_producer(ranks: Callable[..., _Rank]) -> None:
    rank, engine = ranks(), _Engine()
    engine.gate.clear()
    rank.plan(*range(3))
    running = _Running(_config(rank.socket.endpoint), engine)
    rank.run_until(engine.working.is_set)
    rank.say_bye()
    rank.run_until(lambda: not rank.machine.peers)
    engine.gate.set()
    assert running.end() is None
    assert rank.delivered == {}


def test_an_engine_that_dies_gives_the_tickets_back_and_says_why(ranks: Callable[..., _Rank]) -> None:
    rank, engine = ranks(), _Engine()
    engine.error = RuntimeError("out of memory")  # type: ignore[assignment]
    rank.plan(0)
    running = _Running(_config(rank.socket.endpoint), engine)
    rank.run_until(lambda: not running.thread.is_alive() and not rank.machine.peers)
    assert isinstance(running.end(), RuntimeError)
    assert rank.machine.num_outstanding == 0
    assert rank.machine.num_waiting == 1


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://127.0.0.1", "http://127.0.0.1:80"])
def test_a_malformed_address_is_an_endpoint_error(endpoint: str) -> None:
    error = _Running(_config(endpoint), _Engine()).end()
    assert isinstance(error, EndpointError)
    assert repr(endpoint) in str(error)
