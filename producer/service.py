"""The generate-and-send loop: one thread makes groups, one makes them ready to travel, one talks with the ranks.

Generation holds the main thread for seconds at a time; leases live by heartbeats. So the sockets have a thread of their
own. Another waits for the device, takes checksums and encodes, while the main thread begins the next batch: never more
than one batch is ahead of it. All share the state machine under one lock.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path

from penstock.producer.complaints import Complaints
from penstock.producer.config import ProduceConfig, default_name
from penstock.producer.dialler import Dialler
from penstock.producer.engine import Engine, Pending
from penstock.producer.finishing import Begun, Finisher, on_its_way
from penstock.producer.noise import answer_probe
from penstock.producer.posting import Outgoing, Postman
from penstock.producer.tracing import mark_heard, tell
from penstock.producer.work import Work
from penstock.protocol.actions import Action, Connect, Disconnect, Finished, Note, Send
from penstock.protocol.codec import decode
from penstock.protocol.errors import EndpointError, MessageError, ModelError, RejectedError, StarvedError
from penstock.protocol.image_codec import JPEG, CodedImages
from penstock.protocol.inspection import Tally
from penstock.protocol.keys import read_producer_key
from penstock.protocol.links import HeldTicket, ProducerLook
from penstock.protocol.messages import Ack, Bye, Choice, Heartbeat, Hello, Result
from penstock.protocol.producer_machine import ProducerMachine
from penstock.protocol.sockets import ProducerSockets
from penstock.protocol.tickets import Manifest
from penstock.telemetry.recorder import Flow, Recorder

_log = logging.getLogger(__name__)

_TICK_S = 0.05
"""How often time passes for the state machine."""
_TRACE_S = 0.5
"""How often events are told of, where a rank traces."""


class ProducerService:
    """Serves the ranks of a run until they say goodbye.

    Args:
        config: the producer's settings.
        engine: what makes the groups.
        recorder: takes note of what is done to them; without one the service has its own.
    """

    def __init__(self, config: ProduceConfig, engine: Engine, recorder: Recorder | None = None) -> None:
        self.recorder = recorder or Recorder()
        self._config = config
        self._engine = engine
        self._jpeg_quality = config.jpeg_quality if config.codec == JPEG else None
        self._machine = ProducerMachine(
            name=config.name or default_name(),
            manifest=on_its_way(engine.manifest, self._jpeg_quality),
            credit_groups=config.credit_groups,
            credit_bytes=config.credit_bytes,
            max_ranks=config.max_ranks,
        )
        self._sockets = ProducerSockets(read_producer_key(Path(config.key)) if config.key else None)
        self._dialler = Dialler(self._sockets)
        self._hang_ups: list[str] = []
        """Ranks that are left as soon as what is still to be said to them is sent."""
        self._changed = threading.Condition()
        """Guards the machine, the outbox and everything below; notified when any of them changes."""
        self._outbox: deque[Outgoing] = deque()
        self._postman = Postman(self._sockets, self.recorder)
        self._garbled = Tally()
        self._finished: Finished | None = None
        self._error: BaseException | None = None
        """What ended one of the other threads."""
        self._stopping = False
        self._loaded = False
        self._drain_asked = False
        self._draining_since: float | None = None
        self._incomplete_since: float | None = None
        self._is_held_back = False
        """A slow link holds back what could be made: the engine's thread waits for acknowledgements."""
        self._traced_at = time.monotonic()
        self._complaints = Complaints(config, self._traced_at)

    def run(self) -> None:
        """Load the engine and make groups until every rank has said BYE, or until a `drain` is done.

        Raises:
            RejectedError: a rank refuses this producer, or all that can be reached have refused its key for a minute.
            StarvedError: no trainer for `trainer_timeout_s`.
            EndpointError: the address is malformed.
            ModelError: the engine does not load.
        """
        try:
            with self._changed:
                for endpoint in self._config.endpoints:
                    self._act(self._machine.connect(endpoint))
        except EndpointError:
            # Left open, the sockets would block whoever collects their context.
            self._sockets.close()
            raise
        io_thread = threading.Thread(target=self._talk, name="penstock-io", daemon=True)
        io_thread.start()
        why = "stopped"
        try:
            # The ranks are told meanwhile that this producer is coming.
            self._engine.load()
            with self._changed:
                self._loaded = True
                self._act(self._machine.loaded())
            self._make_all()
            why = "drained" if self._drain_asked else "the run is over"
        except ModelError as error:
            why = str(error)
            raise
        finally:
            with self._changed:
                self._act(tell(self.recorder, self._machine.traced))
                self._act(self._machine.leave(why))
                self._stopping = True
            self._sockets.waker.wake()
            io_thread.join(timeout=3)
            self._sockets.close()
            _log.info("made in all: %s", self._engine.work.describe())

    def drain(self) -> bool:
        """Hand back what is not begun, finish the rest within `drain_timeout_s`, then end `run`. For a signal handler.

        Returns False where there is nothing to finish, because the engine is not even loaded.
        """
        self._drain_asked = self._loaded
        return self._loaded

    @property
    def name(self) -> str:
        """In logs and metrics."""
        return self._machine.name

    @property
    def manifest(self) -> Manifest:
        """What it has said that it is."""
        return self._machine.manifest

    @property
    def work(self) -> Work:
        """What its engine has done so far."""
        return self._engine.work

    @property
    def is_loaded(self) -> bool:
        """Whether its engine can work."""
        return self._loaded

    @property
    def is_draining(self) -> bool:
        """Whether it has been asked to end."""
        return self._drain_asked

    @property
    def error(self) -> BaseException | None:
        """What has ended one of its threads, which the main thread raises once it is done with what it does."""
        return self._error

    def look(self) -> ProducerLook:
        """How it is now. For any thread."""
        with self._changed:
            look = self._machine.look()
            return replace(look, rejects=self._garbled.by_kind + Counter(look.rejects))

    # --- main thread --------------------------------------------------------------------------------------------------

    def _wait_for_batch(self) -> Sequence[HeldTicket]:
        with self.recorder.span("wait_tickets"):
            return self._next_batch()

    def _next_batch(self) -> Sequence[HeldTicket]:
        """Wait for tickets and begin them; empty when the run is over."""
        with self._changed:
            while True:
                if self._error is not None:
                    raise self._error
                if self._finished is not None:
                    if self._finished.rejected:
                        raise RejectedError(self._finished.reason)
                    return []
                if self._is_drained():
                    return []
                self._act(self._machine.free())
                patience_s = self._patience()
                self._is_held_back = patience_s <= 0 and self._machine.num_queued_images > 0
                if patience_s <= 0 and not self._drain_asked:
                    batch, actions = self._machine.take(self._config.batch_images, self._engine.company)
                    if batch:
                        self._act(actions)
                        self._sockets.waker.wake()
                        return batch
                if not self._machine.connected and (why := self._complaints.starved(time.monotonic())):
                    raise StarvedError(why)
                self._changed.wait(timeout=min(1.0, patience_s) if patience_s > 0 else 1.0)

    def _is_drained(self) -> bool:
        """Whether a draining producer may go: all that it had begun has arrived, or the time for it is over."""
        if self._draining_since is None:
            return False
        late = self._drain_is_late(time.monotonic())
        if late:
            _log.warning("not everything was acknowledged within drain_timeout_s (%g s)", self._config.drain_timeout_s)
        return late or self._machine.drained

    def _drain_is_late(self, now: float) -> bool:
        return self._draining_since is not None and now - self._draining_since > self._config.drain_timeout_s

    def _patience(self) -> float:
        """Seconds that the tickets at hand may still wait for company; a batch costs the same full or padded."""
        num_images = self._machine.num_queued_images
        if not 0 < num_images < self._config.batch_images or self._machine.has_queued_probe:
            self._incomplete_since = None
            return 0.0
        now = time.monotonic()
        if self._incomplete_since is None:
            self._incomplete_since = now
        return self._incomplete_since + self._config.batch_wait_s - now

    def _make_all(self) -> None:
        """Make batches until the run is over; one is made ready to travel while the next is begun."""
        finisher = Finisher(
            self._engine.work, self._jpeg_quality, self._deliver, self._refuse, self._break, self.recorder
        )
        try:
            while batch := self._wait_for_batch():
                begun_at = time.perf_counter()
                with self.recorder.span("generate"):
                    for held in batch:
                        self.recorder.mark("begin", held.ticket.index, held.ticket.attempt, Flow.STEP)
                    pending = self._begin(batch)
                if pending is not None:
                    finisher.put(Begun(batch, pending, begun_at), lambda: self._drain_is_late(time.monotonic()))
        finally:
            finisher.close(self._patience_for_the_device())
        if self._error is not None:
            raise self._error

    def _patience_for_the_device(self) -> float:
        """Seconds that what is begun may still take when no batch follows."""
        since = self._draining_since
        left = self._config.drain_timeout_s - (0.0 if since is None else time.monotonic() - since)
        return max(1.0, left)

    def _begin(self, batch: Sequence[HeldTicket]) -> Pending | None:
        """Let the engine begin a batch; None where it can make none of it. Probes are not the engine's business."""
        if batch[0].ticket.probe:
            return lambda: [answer_probe(held.ticket) for held in batch]
        self._engine.work.begin()
        try:
            return self._engine.generate([held.ticket for held in batch])
        except ModelError as error:
            self._engine.work.end()
            self._refuse(batch, str(error))
            return None
        except Exception as error:
            # A defect, or a device that is gone; whoever ends by it must not take the tickets along unnamed.
            self._refuse(batch, f"its engine broke: {error!r:.200}")
            raise

    # --- main thread and finishing thread -----------------------------------------------------------------------------

    def _refuse(self, batch: Sequence[HeldTicket], reason: str) -> None:
        with self._changed:
            for held in batch:
                self._act(self._machine.fail(held, reason))
        self._sockets.waker.wake()

    def _deliver(self, held: HeldTicket, coded: CodedImages, checksum: int, seconds: float, choice: Choice) -> None:
        with self._changed:
            now = time.monotonic()
            self._act(self._machine.finish(held, coded, checksum, seconds, now, choice=choice))
        self._sockets.waker.wake()

    def _break(self, error: BaseException) -> None:
        """Another thread has ended by an error, which the main thread raises."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    # --- I/O thread ---------------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        try:
            tick_at = 0.0
            while not (self._stopping and not self._outbox):
                self._flush()
                self._dialler.answer()
                for peer, frames in self._sockets.recv(timeout_ms=max(0, ceil((tick_at - time.monotonic()) * 1000))):
                    self._hear(peer, frames)
                if (now := time.monotonic()) >= tick_at:
                    tick_at = now + _TICK_S
                    with self._changed:
                        self._tick(now)
        except BaseException as error:  # noqa: BLE001 - a thread's edge: the main thread raises it
            self._break(error)

    def _tick(self, now: float) -> None:
        """Let time pass."""
        if why := self._complaints.tick(now, self._sockets.refusals(now), self._machine.connected):
            self._break(RejectedError(why))
        if self._drain_asked and self._draining_since is None:
            self._draining_since = now
            self._act(self._machine.drain("it was asked to end"))
        if self._drain_is_late(now):
            # Said here, because the engine may hold the main thread for long.
            self._act(self._machine.leave("what it had begun was not done in time"))
        if not self._stopping:
            self._act(self._machine.tick(now, self._engine.work.status))
            if now - self._traced_at >= _TRACE_S:
                self._traced_at = now
                self._act(tell(self.recorder, self._machine.traced))

    def _hear(self, peer: bytes, frames: Sequence[memoryview]) -> None:
        came_at = time.monotonic()
        try:
            header, message = decode(frames[0])
        except MessageError as error:
            with self._changed:
                is_told = self._garbled.counts_round(error.reason, peer.decode())
            if is_told:
                _log.warning("dropped a message of %s: %s", peer.decode(), error)
            return
        mark_heard(self.recorder, message)
        with self._changed:
            if isinstance(message, Bye):
                self._act(tell(self.recorder, self._machine.traced))  # the last, before the answer ends all talk
            self._act(self._machine.on_message(peer, header, message, came_at))
            if self._drain_asked or self._is_held_back or not isinstance(message, Ack | Heartbeat):
                # Else what is none of the engine's business would wake its thread.
                self._changed.notify_all()

    def _flush(self) -> None:
        """Send what can be sent. Only results wait for room; leases and heartbeats mend the loss of anything else."""
        with self._changed:
            waiting, self._outbox = self._outbox, deque()
        for out in waiting:
            if self._postman.send(out):
                continue
            if isinstance(out.message, Result) and self._still_wanted(out):
                with self._changed:
                    self._outbox.append(out)
            elif isinstance(out.message, Hello):
                with self._changed:
                    self._machine.not_sent(out.peer)
        with self._changed:
            left, self._hang_ups = self._hang_ups, []
        for endpoint in left:
            self._dialler.hang_up(endpoint)

    def _still_wanted(self, out: Outgoing) -> bool:
        with self._changed:
            return not self._stopping and self._machine.header(out.peer) == out.header

    # --- both, under the lock -----------------------------------------------------------------------------------------

    def _connect(self, endpoint: str, key: str) -> None:
        if endpoint in self._hang_ups:
            self._hang_ups.remove(endpoint)
            self._dialler.hang_up(endpoint)
        try:
            self._dialler.dial(endpoint, key)
        except EndpointError as error:
            if endpoint in self._config.endpoints and not self._machine.connected:
                raise
            _log.warning("a rank is not served: %s", error)
            self._machine.cannot_connect(endpoint)

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    header = self._machine.header(action.peer)
                    self._outbox.append(Outgoing(action.peer, header, action.message, action.payload))
                case Connect():
                    self._connect(action.endpoint, action.key)
                case Disconnect():
                    self._hang_ups.append(action.endpoint)
                case Note():
                    _log.log(logging.WARNING if action.warning else logging.INFO, action.text)
                case Finished():
                    self._finished = action
                case _:
                    raise TypeError(f"a producer does not know the action {action!r}")
