"""The rank's stream: tickets out, groups in.

A thread owns the socket and the state machine; another takes finished groups from a queue. What is asked for
and what is here and not yet taken never exceed the machine's window, so that a slow trainer holds the fleet back and
memory stays bounded.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import ceil
from typing import TypeVar

import numpy as np

from penstock.consumer.config import StreamConfig
from penstock.consumer.group import Group, Quarantined
from penstock.consumer.host_memory import keep_freed_memory
from penstock.consumer.starvation import Starvation
from penstock.consumer.stream_look import StreamLook, StreamStats
from penstock.consumer.watching.producer_traces import ProducerTraces
from penstock.protocol.actions import Action, Deliver, Fail, Note, Quarantine, Send, Traced
from penstock.protocol.admission import Expectation
from penstock.protocol.codec import decode, encode
from penstock.protocol.errors import MessageError, RunError
from penstock.protocol.fleet import FleetState
from penstock.protocol.inspection import Flaw, Pixels, Tally, inspect
from penstock.protocol.messages import Header, Message, Result, Tickets
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.sockets import MESSAGES_PER_TURN, RankSocket, Sent
from penstock.protocol.tickets import Kind, Manifest, Ticket
from penstock.protocol.watching import Clock
from penstock.telemetry.recorder import Flow, Recorder

_log = logging.getLogger(__name__)

T = TypeVar("T")
_Heard = MessageError | tuple[Header, Message, Pixels | Flaw | None]
"""A message, and what its pixels are worth where it has any that are wanted; or what it is instead of one."""

_POLL_MS = 50
_WAIT_SLICE_S = 1.0
"""How often a waiting training thread looks after its patience."""
_FAREWELL_S = 1.0
"""How long a closing stream waits for the producers to answer its BYE."""


class GroupStream:
    """Groups of one rank, in the order that its state machine keeps.

    Args:
        socket: bound; owned by the stream from `start` on.
        machine: the rank's state machine; owned by the stream from `start` on.
        config: how long to wait.
        watch: called every second of a wait; says why no producer of a kind can be hoped for, or None.
        recorder: takes note of what comes and goes; without one the stream has its own.
    """

    def __init__(
        self,
        socket: RankSocket,
        machine: RankMachine,
        config: StreamConfig,
        watch: Callable[[Kind], str | None] = lambda kind: None,
        recorder: Recorder | None = None,
    ) -> None:
        self.recorder = recorder or Recorder()
        self.traces = ProducerTraces()
        """What producers have told of their events, where the machine asks them to."""
        self._socket = socket
        self._machine = machine
        self._config = config
        self._starvation = Starvation(machine, config, watch)
        self._tickets: Iterator[Ticket] = iter(())
        self._next_ticket: Ticket | None = None
        self._stand_in: Callable[[Ticket], Ticket] = _no_stand_in
        self._quarantined: list[Quarantined] = []
        self._buffered: deque[Group] = deque()
        self._newest: deque[Group] = deque(maxlen=0)
        """What came last, for whoever shows it; nothing until `show_newest`."""
        self._changed = threading.Condition()
        """Guards the buffer, the counts and the machine; notified when a group or a producer comes."""
        self._seq = 0
        self._refused = Tally()
        """Connections that were refused, by (reason, address)."""
        self._unreachable: set[bytes] = set()
        self._images = self._groups = self._image_bytes = self._producers_seen = 0
        self._error: BaseException | None = None
        self._stopping = False
        self._abandoned = False
        self._load_counted = False
        self._waited_s: float | None = None
        """Seconds that `get` has waited without any progress; None where it does not wait."""
        self._thread = threading.Thread(target=self._talk, name="penstock-stream", daemon=True)

    # --- whoever takes the groups -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Answer producers from now on, and keep the memory of groups that have left for those that come."""
        keep_freed_memory(self._config.window_bytes)
        self._thread.start()

    def ask(self, tickets: Iterator[Ticket], stand_in: Callable[[Ticket], Ticket]) -> None:
        """Ask for `tickets`, one after another, as far as the window allows. Both arguments run in the stream's thread.

        Args:
            tickets: in the order of need.
            stand_in: the ticket to ask for instead of one that no producer can make; of the same index.
        """
        with self._changed:
            self._tickets, self._next_ticket = tickets, None
            self._stand_in = stand_in
        self._socket.waker.wake()

    def wait_for_engine(self, kind: Kind = Kind.GENERATED) -> Manifest:
        """The manifest of the fleet's first producer of a kind, once it has come. Raises StarvedError."""
        with self._changed:
            return self._wait_for(lambda: self._machine.engines.get(kind))

    def expect(self, expects: Expectation | None, real: Expectation | None = None) -> None:
        """Accept only producers like these, as in `RankMachine`; before `start`."""
        self._machine.expect(expects, real)

    def get(self) -> Group:
        """The next group; waits for it. Raises StarvedError, or RunError where the stream cannot go on."""
        with self._changed:
            self._wait_for(lambda: self._buffered or None)
        group = self.poll()
        if group is None:
            raise RunError("the stream has two readers")
        return group

    def poll(self) -> Group | None:
        """The next group if it is there."""
        with self._changed:
            self._raise_error()
            if not self._buffered:
                return None
            group = self._buffered.popleft()
            self._machine.take(group.ticket.index)
            wakes = self._machine.has_worthwhile_room
        if wakes:
            self._socket.waker.wake()
        return group

    def quarantined(self) -> list[Quarantined]:
        """Tickets that got a stand-in since the last call."""
        with self._changed:
            records, self._quarantined = self._quarantined, []
        return records

    def abandon(self) -> None:
        """Let `get` end with a RunError, now and from now on. For any thread."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def waiting(self) -> str | None:
        """Which ticket `get` waits for, and who holds it; None where it does not wait. For any thread."""
        with self._changed:
            return None if self._waited_s is None else self._machine.describe_wait(time.monotonic())

    @property
    def endpoint(self) -> str:
        """The rank's address, for producers of this machine."""
        return self._socket.endpoint

    def show_newest(self, num_groups: int) -> None:
        """Keep the groups that come last for `newest`, at most so many, whoever takes them. For any thread."""
        self._newest = deque(self._newest, maxlen=num_groups)

    def newest(self) -> list[Group]:
        """The groups that have come last since the last call, the newest first. For any thread; waits for none."""
        newest, self._newest = self._newest, deque(maxlen=self._newest.maxlen)
        return list(newest)[::-1]

    @property
    def stats(self) -> StreamStats:
        """Counts so far."""
        with self._changed:
            return self._stats()

    def look(self) -> StreamLook:
        """Where everything is now. For any thread."""
        now = time.monotonic()
        with self._changed:
            refused = self._refused.by_kind
            return StreamLook.of(self._machine, self._stats(), refused, now, is_waiting=self._waited_s is not None)

    def _stats(self) -> StreamStats:
        return StreamStats(
            groups=self._groups,
            images=self._images,
            image_bytes=self._image_bytes,
            producers=len(self._machine.peers),
            producers_seen=self._producers_seen,
            rejected=self._machine.rejects.total,
            expired=self._machine.expired,
            hedged=self._machine.hedged,
            quarantined=self._machine.quarantined,
        )

    def close(self, reason: str) -> None:
        """Say BYE to every producer, wait a moment for theirs, and close the socket. Does nothing the second time."""
        with self._changed:
            if self._stopping:
                return
            self._stopping = True
        self._socket.waker.wake()
        if self._thread.is_alive():
            self._thread.join(timeout=3)
        for action in self._machine.close(reason):
            if isinstance(action, Send):
                self._send(action)
        for identity in self._unreachable:
            self._machine.on_unreachable(identity)
        # Their BYE says that ours was read: a connection that ends takes with it what is unread.
        deadline = time.monotonic() + _FAREWELL_S
        while self._machine.num_listening and time.monotonic() < deadline:
            self._socket.wait(_POLL_MS)
            for identity, frames in self._socket.received():
                for action in self._hear(identity, self._read(identity, frames), time.monotonic()):
                    if isinstance(action, Traced):
                        self.traces.add(action)
                if time.monotonic() > deadline:
                    break
        self._socket.close()

    def _wait_for(self, look: Callable[[], T | None]) -> T:
        """What `look` sees, as soon as it sees something; holds the lock. Raises StarvedError after too long."""
        self._waited_s = 0.0
        while (found := look()) is None:
            self._raise_error()
            self._starvation.check(self._waited_s, any_seen=self._producers_seen > 0, endpoint=self._socket.endpoint)
            before = time.monotonic()
            self._changed.wait(timeout=_WAIT_SLICE_S)
            # A process that was stopped for a while has not waited for so long; it has not even listened.
            self._waited_s += min(time.monotonic() - before, 2 * _WAIT_SLICE_S)
        self._waited_s = None
        return found

    def _has_progressed(self) -> None:
        """The training thread's patience begins anew."""
        if self._waited_s is not None:
            self._waited_s = 0.0

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
        if self._abandoned:
            raise RunError("nobody takes groups of this stream any more: the run ends")

    # --- stream thread ------------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        try:
            tick_at = 0.0
            while not self._stopping:
                self._socket.wait(timeout_ms=max(0, ceil((tick_at - time.monotonic()) * 1000)))
                now = time.monotonic()
                # What has come is heard before time passes: after a pause the heartbeats lie in the queue.
                num_heard = 0
                for identity, frames in self._socket.received():
                    came_at = time.monotonic()  # before it is read, which takes time of its own
                    heard = self._read(identity, frames)
                    with self._changed:
                        num_refused = self._machine.rejects.total
                        self._perform(self._hear(identity, heard, came_at))
                        if self._machine.rejects.total > num_refused:
                            self._socket.blame(identity, came_at)
                    num_heard += 1
                with self._changed:
                    if num_heard < MESSAGES_PER_TURN:
                        self._forget_unreachable()
                    self._top_up()
                    self._perform(self._machine.issue(now))
                    if now >= tick_at:
                        tick_at = now + _POLL_MS / 1000
                        self._tick(now)
        except BaseException as error:  # noqa: BLE001 - a thread's edge: the training thread raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _tick(self, now: float) -> None:
        """Let time pass. By the clock, not by the message: it looks at every ticket and every producer."""
        self._watch_door(now)
        was_warming = self._machine.fleet is FleetState.WARMING
        self._perform(self._machine.tick(now))
        if was_warming and self._machine.fleet is FleetState.SERVING and not self._load_counted:
            # Loading was progress; but once for a group, or producers that load and die could be waited for in vain.
            self._load_counted = True
            self._has_progressed()

    def _watch_door(self, now: float) -> None:
        """Say who was refused, and let go of those that are heard no more."""
        for refusal in self._socket.refusals():
            if refusal.word:
                self._refused.counts_round(refusal.word, refusal.who)
            if refusal.line:
                _log.warning(refusal.line)
        for identity, why in self._socket.let_go(now):
            self._perform(self._machine.on_let_go(identity, why))

    def _forget_unreachable(self) -> None:
        """Tell the machine whose connection has ended; when all is heard, since a BYE comes before the end."""
        gone, self._unreachable = self._unreachable, set()
        for identity in gone:
            self._perform(self._machine.on_unreachable(identity))

    def _top_up(self) -> None:
        """Plan tickets until the window is full."""
        while True:
            self._next_ticket = self._next_ticket or next(self._tickets, None)
            if self._next_ticket is None or not self._machine.room_for(self._next_ticket.recipe.nbytes):
                return
            self._machine.plan(self._next_ticket)
            self._next_ticket = None

    def _read(self, identity: bytes, frames: Sequence[memoryview]) -> _Heard:
        """Decode a message and inspect its pixels; without the lock, for which the training thread would wait."""
        begun_ns = time.monotonic_ns()
        payload = frames[1] if len(frames) == 2 else None
        try:
            if len(frames) not in (1, 2):
                raise MessageError("frame_count", f"a message has 1 or 2 frames, got {len(frames)}")
            header, message = decode(frames[0])
            if payload is not None and not isinstance(message, Result):
                raise MessageError("frame_count", f"{message.kind} has one frame, got 2")
        except MessageError as error:
            return error
        if not isinstance(message, Result):
            return header, message, None
        with self._changed:
            wanted = self._machine.wanted(identity, header, message)
        if wanted is None:
            return header, message, None
        outcome = inspect(*wanted, message, payload)
        self.recorder.add("receive", begun_ns, time.monotonic_ns(), message.index, message.attempt, Flow.STEP)
        return header, message, outcome

    def _hear(self, identity: bytes, heard: _Heard, now: float) -> Sequence[Action]:
        """What the machine makes of it; under the lock."""
        if isinstance(heard, MessageError):
            return self._machine.on_garbage(identity, heard)
        return self._machine.on_message(identity, *heard, now)

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case Deliver():
                    self._deliver(action)
                case Quarantine():
                    self._replace(action)
                case Traced():
                    self.traces.add(action)
                case Note():
                    _log.log(logging.WARNING if action.warning else logging.INFO, action.text)
                    self._producers_seen = max(self._producers_seen, len(self._machine.peers))
                    self._changed.notify_all()
                case Fail():
                    raise RunError(action.text)
                case _:
                    raise TypeError(f"a rank does not know the action {action!r}")

    def _send(self, action: Send) -> None:
        """Send, or drop where the peer has no room: leases and heartbeats mend what is lost."""
        header = Header(run=self._machine.run_id, incarnation=self._machine.incarnation, seq=self._seq)
        self._seq += 1
        message = action.message
        if isinstance(message, Tickets):
            for ticket in message.tickets:
                self.recorder.mark("issue", ticket.index, ticket.attempt, Flow.BEGIN)
        elif isinstance(message, Clock):
            message = replace(message, sent_ns=time.monotonic_ns())
        if self._socket.send(action.peer, encode(message, header)) is Sent.UNREACHABLE:
            self._unreachable.add(action.peer)

    def _replace(self, action: Quarantine) -> None:
        stand_in = self._stand_in(action.ticket)
        self._machine.stand_in(stand_in)
        self._quarantined.append(Quarantined(action.ticket, action.reason, stand_in))

    def _deliver(self, action: Deliver) -> None:
        pixels = np.frombuffer(action.payload, dtype=np.uint8).reshape(action.ticket.recipe.shape)
        group = Group(
            action.ticket,
            pixels,
            action.producer,
            action.manifest,
            candidates=action.candidates,
            num_made=action.num_made,
            num_unsatisfied=action.num_unsatisfied,
            crc32=action.crc32,
            arrived_ns=time.monotonic_ns(),
        )
        self._buffered.append(group)
        self._newest.append(group)
        self._groups += 1
        self._images += len(pixels)
        self._image_bytes += action.wire_bytes
        self._load_counted = False
        self._has_progressed()
        self._changed.notify_all()


def _no_stand_in(ticket: Ticket) -> Ticket:
    raise RunError(f"ticket {ticket.index} cannot be made, and nothing stands in for it")
