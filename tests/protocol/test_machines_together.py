"""One rank and several producers over a simulated network that loses messages, breaks and freezes, but keeps the order.

Whatever Hypothesis does to them: every index is delivered exactly once, the accounts agree with the tickets, credit
is never overdrawn, and once the faults stop everything that was planned arrives within bounded time.
"""

import zlib
from collections import Counter, deque
from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock.protocol.actions import Action, Buffer, Connect, Deliver, Fail, Finished, Note, Send
from penstock.protocol.codec import decode, encode
from penstock.protocol.messages import Header, Message, Result
from penstock.protocol.producer_machine import HeldTicket, ProducerMachine
from penstock.protocol.rank_machine import Patience, RankMachine
from penstock.protocol.tickets import Manifest, Recipe, Ticket

ENDPOINT = "tcp://127.0.0.1:1"
RANK = ENDPOINT.encode()
NUM_PRODUCERS = 3
CREDIT_GROUPS = 3
PATIENCE = Patience(heartbeat_s=1.0, lease_s=4.0, max_attempts=10**6, max_bad_results=10**6)
STEP_S = 0.25
RECOVERY_S = 30.0
"""Three leases until the last silent producer is forgotten, and as many again for the work itself."""

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
WHO = st.integers(0, NUM_PRODUCERS - 1)


def _recipe(index: int) -> Recipe:
    """Groups of different sizes, so that bytes and groups are accounts of their own."""
    return Recipe(
        prompt=f"fox {index}",
        seed=index,
        num_images=1 + index % 4,
        guidance_scale=2.0,
        num_inference_steps=8,
        scheduler="default",
        height=2,
        width=2,
        model_digest="d1",
    )


CREDIT_BYTES = 2 * _recipe(3).nbytes + 1


def _pixels(ticket: Ticket) -> bytes:
    return bytes([ticket.index % 256]) * ticket.recipe.nbytes


class _Line:
    """One connection of a producer with the rank: two queues of frames in order, and the name the rank has for it."""

    def __init__(self, identity: bytes) -> None:
        self.identity = identity
        self.up: deque[tuple[bytes, Buffer | None]] = deque()
        self.down: deque[bytes] = deque()


class _Producer:
    def __init__(self, number: int, life: int) -> None:
        self.machine = ProducerMachine(
            name=f"p{number}.{life}",
            manifest=MANIFEST,
            credit_groups=CREDIT_GROUPS,
            credit_bytes=CREDIT_BYTES,
        )
        assert self.machine.connect(ENDPOINT) == [Connect(ENDPOINT)]
        self.frozen = False
        self.making: list[HeldTicket] = []


class Network(RuleBasedStateMachine):
    """Moves messages between the machines and plays fate."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lives = 0
        self.planned: set[int] = set()
        self.delivered: Counter[int] = Counter()
        self.rank_frozen = False

    @initialize()
    def begin(self) -> None:
        self.producers = [self._new_producer(number) for number in range(NUM_PRODUCERS)]
        self.lines = [self._new_line(number) for number in range(NUM_PRODUCERS)]
        self.rank = self._new_rank()
        self.plan(12)
        for _ in range(3):
            self._talk()
            self._tick()
        assert self.rank.num_outstanding == sum(p.machine.num_queued for p in self.producers) > 0

    def _next_life(self) -> int:
        self.lives += 1
        return self.lives

    def _new_producer(self, number: int) -> _Producer:
        return _Producer(number, self._next_life())

    def _new_line(self, number: int) -> _Line:
        return _Line(b"%d.%d" % (number, self._next_life()))

    def _new_rank(self) -> RankMachine:
        rank = RankMachine(
            run_id="run",
            incarnation=self._next_life(),
            rank=0,
            endpoints=(ENDPOINT,),
            model_digest="d1",
            patience=PATIENCE,
        )
        for index in sorted(self.planned - set(self.delivered)):
            rank.plan(Ticket(index=index, rank=0, recipe=_recipe(index)))
        return rank

    # --- the shells ------------------------------------------------------------------------------

    def _perform_rank(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    header = Header(run=self.rank.run_id, incarnation=self.rank.incarnation)
                    frame = encode(action.message, header)
                    for line in self.lines:
                        if line.identity == action.peer:
                            line.down.append(frame)
                case Deliver():
                    self.delivered[action.ticket.index] += 1
                    assert bytes(action.payload) == _pixels(action.ticket)
                case Fail():
                    raise AssertionError(action.text)
                case _:
                    assert isinstance(action, Note)

    def _perform_producer(self, number: int, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                frame = encode(action.message, self.producers[number].machine.header(action.peer))
                self.lines[number].up.append((frame, action.payload))
            else:
                assert not isinstance(action, Finished), "no rank has said BYE or REJECT"

    def _rank_hears(self, number: int) -> None:
        frame, payload = self.lines[number].up.popleft()
        header, message = decode(frame)
        identity = self.lines[number].identity
        self._perform_rank(self.rank.on_message(identity, header, message, payload, self.now))

    def _producer_hears(self, number: int) -> None:
        header, message = decode(self.lines[number].down.popleft())
        actions = self.producers[number].machine.on_message(RANK, header, message, self.now)
        self._perform_producer(number, actions)

    def _make(self, number: int, *, spoil: str) -> None:
        producer = self.producers[number]
        for held in producer.making:
            ticket = held.ticket
            payload = _pixels(ticket)
            if spoil == "fail":
                actions = producer.machine.fail(held, "out of luck")
            else:
                crc32 = zlib.crc32(payload) ^ (spoil == "checksum")
                actions = producer.machine.finish(held, payload, crc32, 0.1, self.now)
            if spoil == "shape":
                actions = [_with_lying_shape(action) for action in actions]
            self._perform_producer(number, actions)
        producer.making = []

    def _tick(self) -> None:
        if not self.rank_frozen:
            self._perform_rank(self.rank.tick(self.now))
        for number, producer in enumerate(self.producers):
            if not producer.frozen:
                self._perform_producer(number, producer.machine.tick(self.now))

    # --- what happens ----------------------------------------------------------------------------

    @rule(count=st.integers(1, 6))
    def plan(self, count: int) -> None:
        for _ in range(count):
            index = len(self.planned)
            self.planned.add(index)
            self.rank.plan(Ticket(index=index, rank=0, recipe=_recipe(index)))

    @rule(seconds=st.sampled_from([0.1, 1.0, 1.0, 3.5, 5.0, 15.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self._tick()

    @rule(count=st.integers(1, 6))
    def all_is_well_for_a_while(self, count: int) -> None:
        for _ in range(count):
            self._calm_step()

    @rule(number=WHO)
    def a_message_goes_up(self, number: int) -> None:
        if not self.rank_frozen and self.lines[number].up:
            self._rank_hears(number)

    @rule(number=WHO)
    def a_message_goes_down(self, number: int) -> None:
        if not self.producers[number].frozen and self.lines[number].down:
            self._producer_hears(number)

    @rule(number=WHO, age=st.integers(0, 2))
    def a_message_is_lost_on_its_way_up(self, number: int, age: int) -> None:
        if len(self.lines[number].up) > age:
            del self.lines[number].up[-1 - age]

    @rule(number=WHO, age=st.integers(0, 2))
    def a_message_is_lost_on_its_way_down(self, number: int, age: int) -> None:
        if len(self.lines[number].down) > age:
            del self.lines[number].down[-1 - age]

    @rule(number=WHO)
    def a_finished_group_is_lost(self, number: int) -> None:
        self.work_begins(number)
        self.work_ends(number, "no")
        self.a_message_is_lost_on_its_way_up(number, 0)

    @rule(number=WHO)
    def work_begins(self, number: int) -> None:
        producer = self.producers[number]
        if not producer.frozen and not producer.making:
            producer.making, actions = producer.machine.take(8)
            self._perform_producer(number, actions)

    @rule(number=WHO, spoil=st.sampled_from(["no", "no", "no", "checksum", "shape", "fail"]))
    def work_ends(self, number: int, spoil: str) -> None:
        if not self.producers[number].frozen:
            self._make(number, spoil=spoil)

    @rule(number=WHO)
    def a_producer_crashes_and_another_starts(self, number: int) -> None:
        self.producers[number] = self._new_producer(number)
        self.lines[number] = self._new_line(number)

    @rule(number=WHO)
    def a_producer_leaves_and_another_starts(self, number: int) -> None:
        self._perform_producer(number, self.producers[number].machine.leave("drained"))
        while self.lines[number].up and not self.rank_frozen:
            self._rank_hears(number)
        self.a_producer_crashes_and_another_starts(number)

    @rule(number=WHO)
    def a_producer_freezes_or_thaws(self, number: int) -> None:
        self.producers[number].frozen = not self.producers[number].frozen

    @rule()
    def the_rank_freezes_or_thaws(self) -> None:
        self.rank_frozen = not self.rank_frozen

    @rule(number=WHO)
    def a_connection_breaks(self, number: int) -> None:
        self.lines[number] = self._new_line(number)

    @precondition(lambda self: self.planned)
    @rule()
    def the_rank_crashes_and_begins_another_life(self) -> None:
        self.lines = [self._new_line(number) for number in range(NUM_PRODUCERS)]
        self.rank = self._new_rank()

    # --- what must hold --------------------------------------------------------------------------

    @invariant()
    def nothing_is_delivered_twice_or_unasked(self) -> None:
        assert set(self.delivered) <= self.planned
        assert all(count == 1 for count in self.delivered.values())

    @invariant()
    def what_is_planned_is_waited_for_until_it_is_delivered(self) -> None:
        if hasattr(self, "rank"):
            assert set(self.rank._table) == self.planned - set(self.delivered)
            assert self.rank.num_waiting == len(self.planned) - len(self.delivered)

    @invariant()
    def outstanding_credit_equals_live_attempts(self) -> None:
        if not hasattr(self, "rank"):
            return
        held = [(entry.holder, index) for index, entry in self.rank._table.items() if entry.holder]
        assert self.rank.num_outstanding == len(held)
        for identity, peer in self.rank.peers.items():
            mine = {index for holder, index in held if holder == identity}
            assert peer.held == mine
            assert peer.held_bytes == sum(_recipe(index).nbytes for index in mine)
            assert len(mine) <= CREDIT_GROUPS
            assert peer.held_bytes <= CREDIT_BYTES
        assert {holder for holder, _ in held} <= set(self.rank.peers)

    @invariant()
    def what_nobody_holds_is_in_the_plan_once(self) -> None:
        if hasattr(self, "rank"):
            free = [index for index, entry in self.rank._table.items() if not entry.holder]
            assert sorted(self.rank._planned) == sorted(free)

    def _talk(self) -> None:
        for number in range(NUM_PRODUCERS):
            while self.lines[number].up:
                self._rank_hears(number)
            while self.lines[number].down:
                self._producer_hears(number)

    def _calm_step(self) -> None:
        self.now += STEP_S
        self.rank_frozen = False
        for producer in self.producers:
            producer.frozen = False
        self._talk()
        for number in range(NUM_PRODUCERS):
            self.work_begins(number)
            self._make(number, spoil="no")
        self._tick()

    def teardown(self) -> None:
        """Once the faults stop, everything arrives."""
        if not hasattr(self, "rank"):
            return
        deadline = self.now + RECOVERY_S
        while self.now < deadline and len(self.delivered) < len(self.planned):
            self._calm_step()
            self.outstanding_credit_equals_live_attempts()
        assert set(self.delivered) == self.planned
        self.nothing_is_delivered_twice_or_unasked()
        assert self.rank.num_outstanding == self.rank.num_waiting == 0


def _with_lying_shape(action: Action) -> Action:
    if not isinstance(action, Send) or not isinstance(action.message, Result):
        return action
    shape = (*action.message.shape[:-1], 4)
    message: Message = Result(
        index=action.message.index,
        attempt=action.message.attempt,
        shape=shape,
        crc32=action.message.crc32,
        seconds=action.message.seconds,
    )
    return Send(action.peer, message, action.payload)


TestNetwork = Network.TestCase
TestNetwork.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
