"""A stub engine, a service in a thread of its own, and a real rank on the loopback in the test's hand."""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from penstock.producer.config import ProduceConfig
from penstock.producer.engine import Engine, Images, Made, Pending
from penstock.producer.service import ProducerService
from penstock.producer.work import Work
from penstock.protocol.actions import Action, Deliver, Fail, Note, Quarantine, Send, Traced
from penstock.protocol.admission import Expectation
from penstock.protocol.batching import same_recipe
from penstock.protocol.codec import decode, encode
from penstock.protocol.dispatcher import Patience
from penstock.protocol.errors import ModelError
from penstock.protocol.fleet import PeerState
from penstock.protocol.keys import TrainerKeys
from penstock.protocol.messages import Header
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.sockets import RankSocket, Sent
from penstock.protocol.tickets import Manifest, Ticket
from tests.protocol import samples
from tests.protocol.desk import hear

WAIT_S = 20.0
RECIPE = replace(samples.RECIPE, height=64, width=64)
BATCH_IMAGES = 8
GROUPS_PER_BATCH = 4


class StubEngine:
    """Paints each group in the colour of its index. `load` and `generate` wait for their gates, which are open."""

    def __init__(self) -> None:
        self.work = Work()
        self.batches: list[int] = []
        self.flaws: dict[int, ModelError] = {}
        self.load_error: Exception | None = None
        self.error: Exception | None = None
        self.load_gate = threading.Event()
        self.load_gate.set()
        self.gate = threading.Event()
        self.gate.set()
        self.working = threading.Event()

    @property
    def manifest(self) -> Manifest:
        return replace(samples.MANIFEST, model="stub", batch_images=BATCH_IMAGES)

    def load(self) -> None:
        assert self.load_gate.wait(WAIT_S)
        if self.load_error is not None:
            raise self.load_error

    def company(self, ticket: Ticket) -> Hashable:
        return same_recipe(ticket)

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        self.working.set()
        assert self.gate.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        self.batches.append(sum(ticket.recipe.num_images for ticket in tickets))
        groups = [np.full(ticket.recipe.shape, colour_of(ticket.index), np.uint8) for ticket in tickets]
        return lambda: self.finish(tickets, groups)

    def finish(self, tickets: Sequence[Ticket], groups: Sequence[Images]) -> list[Made]:
        """What the device has made of a batch, in whatever thread waits for it."""
        return [self.flaws.get(ticket.index, images) for ticket, images in zip(tickets, groups, strict=True)]


def colour_of(index: int) -> int:
    return 1 + index % 255


class LiveRank:
    """A rank whose socket is real, and which hears and acts only while the test lets it."""

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:0",
        *,
        incarnation: int = 1,
        digest: str = "d1",
        real_digest: str = "",
        others: tuple[str, ...] = (),
        traces: bool = False,
        keys: TrainerKeys | None = None,
        **patience: Any,
    ) -> None:
        self.socket = RankSocket(endpoint, keys=keys)
        self.recipe = replace(RECIPE, model_digest=digest)
        self.machine = RankMachine(
            run_id="run",
            incarnation=incarnation,
            rank=0,
            endpoints=(self.socket.endpoint, *others),
            expects=Expectation(model_digest=digest),
            real=Expectation(model_digest=real_digest) if real_digest else None,
            window_groups=10**6,
            window_bytes=1 << 40,
            patience=Patience(**{"heartbeat_s": 0.1, "lease_s": 1.0, "max_attempts": 3} | patience),
            traces=traces,
        )
        self.delivered: dict[int, Deliver] = {}
        self.quarantined: list[Quarantine] = []
        self.traced: list[Traced] = []
        self._unreachable: set[bytes] = set()
        self.notes: list[str] = []

    def plan(self, *indices: int) -> None:
        for index in indices:
            self.machine.plan(Ticket(index=index, rank=0, recipe=self.recipe))

    def run_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, self.notes
            self.socket.wait(timeout_ms=20)
            now = time.monotonic()
            # As the stream does: what has come is heard before anything is sent.
            for identity, frames in self.socket.received():
                header, message = decode(frames[0])
                payload = frames[1] if len(frames) == 2 else None
                self._perform(hear(self.machine, identity, header, message, payload, now))
            # A BYE comes before the end of its connection.
            gone, self._unreachable = self._unreachable, set()
            for identity in gone:
                self._perform(self.machine.on_unreachable(identity))
            self._perform(self.machine.tick(now))

    def run_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.run_until(lambda: time.monotonic() > until)

    def say_bye(self) -> None:
        self._perform(self.machine.close("the run is over"))

    def states(self) -> dict[str, PeerState]:
        return {peer.name: peer.state for peer in self.machine.peers.values()}

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    header = Header(run="run", incarnation=self.machine.incarnation)
                    if self.socket.send(action.peer, encode(action.message, header)) is Sent.UNREACHABLE:
                        self._unreachable.add(action.peer)
                case Deliver():
                    assert action.ticket.index not in self.delivered
                    self.delivered[action.ticket.index] = action
                case Traced():
                    self.traced.append(action)
                case Quarantine():
                    self.quarantined.append(action)
                case Note() | Fail():
                    self.notes.append(action.text)
                case _:
                    raise AssertionError(action)


class RunningService:
    """A service in a thread of its own."""

    def __init__(self, endpoint: str, engine: Engine, **changes: Any) -> None:
        settings: dict[str, Any] = {"name": "ann", "batch_images": BATCH_IMAGES, "trainer_timeout_s": WAIT_S}
        self.service = ProducerService(ProduceConfig(connect=endpoint, **settings | changes), engine)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.service.run()
        except BaseException as error:  # noqa: BLE001 - the test's own thread: `end` hands it on
            self.error = error

    def ended(self) -> bool:
        return not self.thread.is_alive()

    def end(self) -> BaseException | None:
        """Wait for the service's end; what it raised, if anything."""
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()
        return self.error
