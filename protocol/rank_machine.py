"""The rank's side of the protocol: whom it welcomes, what it believes, what it answers.

A run may use images of two kinds, generated and real ones; producers of each must agree among themselves.

A pure state machine: events and the time in, actions out. Who holds which ticket is the dispatcher's business; here are
the fences, the messages, and the watch over the producers. Times are seconds on the caller's monotonic clock.
States and messages: docs/protocol.md.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from penstock.protocol.actions import Action, Deliver, Note, Send, Traced
from penstock.protocol.admission import Expectation, refusal
from penstock.protocol.chance import draw
from penstock.protocol.dispatcher import Dispatcher, Patience
from penstock.protocol.errors import MessageError, VersionError
from penstock.protocol.fleet import FleetState, Peer, PeerState, state_of, worst
from penstock.protocol.inspection import BLANK, Flaw, Pixels, Tally
from penstock.protocol.limits import MAX_LIST_LENGTH, MAX_PRODUCERS, PROTOCOL_VERSION
from penstock.protocol.messages import (
    Bye,
    Cancel,
    Drain,
    Header,
    Heartbeat,
    Hello,
    Message,
    Nack,
    Ready,
    Reject,
    Result,
    Started,
    Welcome,
)
from penstock.protocol.ticket_table import Entry, Fault, Hold
from penstock.protocol.tickets import Attempt, Kind, Manifest, Ticket
from penstock.protocol.watching import Clock, Status, Trace

_BROKEN = "broken"
"""What a producer was refused as that may come again and again."""


class RankMachine(Dispatcher):
    """State machine of one rank.

    Args:
        run_id: the run, named in every message.
        incarnation: this life of the rank; larger than that of every earlier life.
        rank: this rank.
        endpoints: addresses of all ranks, by rank.
        keys: public CURVE keys of all ranks, by rank; none where the links have no keys.
        expects: what an engine that generates must be; None where no image of the run is generated.
        real: what an engine that looks real images up must be; None where no image of the run is real.
        order: `ticket` delivers groups in the order in which their tickets were planned, `arrival` as they come.
        window_groups: groups asked for, or here and not yet taken, at a time.
        window_bytes: bytes of them; a ticket in two producers' hands counts twice.
        patience: leases, deadlines and attempts.
        traces: whether producers are asked for their events, which become `Traced`.
        key_name: what the key is called by which a producer was let in; empty where the link has none.
    """

    def __init__(
        self,
        *,
        run_id: str,
        incarnation: int,
        rank: int,
        endpoints: tuple[str, ...],
        keys: tuple[str, ...] = (),
        expects: Expectation | None,
        real: Expectation | None = None,
        order: Literal["ticket", "arrival"] = "arrival",
        window_groups: int,
        window_bytes: int,
        patience: Patience,
        traces: bool = False,
        key_name: Callable[[bytes], str] = lambda identity: "",
    ) -> None:
        super().__init__(
            in_order=order == "ticket", window_groups=window_groups, window_bytes=window_bytes, patience=patience
        )
        self.run_id = run_id
        self.incarnation = incarnation
        self.rank = rank
        self.endpoints = endpoints
        self.keys = keys
        self.sharers = len(endpoints)
        self.traces = traces
        self._key_name = key_name
        self.engines: dict[Kind, Manifest] = {}
        """The first accepted producer's of each kind."""
        self.expect(expects, real)
        self.rejects = Tally()
        """Messages dropped, by (reason, producer)."""
        self.last_refusal = ""
        """Why the producer that was refused last cannot serve the run; empty where none was."""
        self._rejoined = Tally()
        """How often producers have come back, by how: whoever does nothing else must not fill the log."""
        self._lost_at: dict[Kind, float] = {}
        self._heartbeat_at = float("-inf")

    def expect(self, generated: Expectation | None, real: Expectation | None = None) -> None:
        """From now on accept only producers like these; None for a kind of images that the run does not use."""
        expects = {Kind.GENERATED: generated, Kind.REAL: real}
        self.expects: dict[Kind, Expectation] = {kind: of for kind, of in expects.items() if of is not None}
        self._fleets = dict.fromkeys(self.expects, FleetState.WAITING)

    @property
    def lacking(self) -> list[Kind]:
        """The kinds of images that the run needs and that no producer is here for."""
        here = {peer.manifest.kind for peer in self.peers.values()}
        return [kind for kind in self.expects if kind not in here]

    def tick(self, now: float) -> list[Action]:
        """Let time pass: heartbeats, silence, leases and deadlines that ran out, the hedge, the fleet's state."""
        actions = self._watch_silence(now)
        actions += [Send(identity, peer.acknowledge()) for identity, peer in self.peers.items() if peer.arrived]
        if now - self._heartbeat_at >= self.patience.heartbeat_s:
            self._heartbeat_at = now
            for identity, peer in self.peers.items():
                actions.append(Send(identity, Heartbeat(held=tuple(peer.held.values()))))
                if peer.state in (PeerState.WARMING, PeerState.STALLED):
                    # Asks it to say READY when its engine is free, in case that it has and was not heard.
                    actions.append(Send(identity, Cancel(attempts=())))
            actions += self._expire_idle(now)
        actions += self._expire(now)
        actions += self._hedge(now)
        actions += self.issue(now, eager=True)
        return actions + self._watch_fleet(now)

    def close(self, reason: str) -> list[Action]:
        """Say BYE to every producer. No ticket is handed out any more."""
        self._closing = True
        return [Send(identity, Bye(reason=reason)) for identity in self.peers]

    # --- what the wire says -------------------------------------------------------------------------------------------

    def on_garbage(self, identity: bytes, error: MessageError) -> list[Action]:
        """Bytes that are no message: count them, and say why to whoever may understand."""
        note = self._count(self._name(identity), error.reason, str(error))
        if isinstance(error, VersionError):
            reason = f"this run speaks protocol version {PROTOCOL_VERSION}, you speak {error.theirs}; install the same"
            return [Send(identity, Reject(reason=reason)), *note]
        return [Send(identity, Nack(index=-1, attempt=0, reason=str(error), retryable=False)), *note]

    def on_unreachable(self, identity: bytes) -> list[Action]:
        """The connection behind `identity` is gone, and its name with it."""
        return self._forget(identity, "is gone: its connection ended") if identity in self.peers else []

    def on_let_go(self, identity: bytes, why: str) -> list[Action]:
        """Whoever is behind `identity` is heard no more; its messages do not come this far."""
        goes = self._forget(identity, f"is out: {why}", polite=True) if identity in self.peers else []
        return [Send(identity, Reject(reason=why)), *goes]

    def wanted(self, identity: bytes, header: Header, result: Result) -> tuple[Ticket, Manifest] | None:
        """What the pixels of a RESULT are to be inspected against; None where they need not be looked at.

        Returns the ticket that its sender really holds, and the sender's manifest.
        """
        peer = self.peers.get(identity)
        if peer is None or (header.run, header.incarnation) != (self.run_id, self.incarnation):
            return None
        held = self._held(identity, (result.key,)) if header.seq > peer.last_seq else []
        return (held[0][0].ticket, peer.manifest) if held else None

    def on_message(
        self, identity: bytes, header: Header, message: Message, outcome: Pixels | Flaw | None, now: float
    ) -> list[Action]:
        """Take one decoded message from the producer behind `identity`.

        Args:
            identity, header, message: who says what.
            outcome: of the inspection of a RESULT's pixels, where `wanted` says that there is to be one.
            now: the time.

        Raises ValueError where the outcome of a wanted RESULT is missing.
        """
        if isinstance(message, Hello):
            return self._on_hello(identity, header, message, now)
        if (header.run, header.incarnation) != (self.run_id, self.incarnation):
            return self._nack(identity, None, "life", "another life of this run asked for it; say HELLO")
        peer = self.peers.get(identity)
        if peer is None:
            return self._nack(identity, None, "unknown_producer", "say HELLO")
        if header.seq <= peer.last_seq:
            what = f"{message.kind} is number {header.seq}, number {peer.last_seq} was heard before"
            return self._nack(identity, None, "sequence", what, retryable=False)
        peer.last_heard, peer.last_seq = now, header.seq
        if peer.state is PeerState.SUSPECT:
            peer.state = peer.awake
        match message:
            case Ready():
                # A heartbeat must be able to name all that a producer holds.
                peer.credit_groups = min(message.credit_groups, MAX_LIST_LENGTH)
                peer.credit_bytes = message.credit_bytes
                if peer.state is not PeerState.DRAINING:
                    peer.state = PeerState.READY
                return self.issue(now)
            case Started():
                for _, hold in self._held(identity, message.attempts):
                    peer.worked_at = now
                    # The first counts: said again and again it would put off the deadline for ever.
                    hold.started_at = now if hold.started_at is None else hold.started_at
                    hold.named_at = now
                return []
            case Heartbeat():
                for _, hold in self._held(identity, message.held):
                    hold.named_at = now
                return []
            case Status():
                peer.status = message
                heard_ns = round(now * 1e9)
                return [Send(identity, Clock(echo_ns=message.clock_ns, heard_ns=heard_ns, sent_ns=heard_ns))]
            case Trace():
                if not self.traces:
                    return self._nack(identity, None, "trace", "this rank does not trace", retryable=False)
                return [Traced(identity, peer.name, message)]
            case Result():
                return self._on_result(identity, peer, message, outcome, now) + self.issue(now)
            case Nack():
                return self._on_nack(identity, peer, message) + self.issue(now)
            case Drain():
                return self._on_drain(identity, peer, message) + self.issue(now)
            case Bye():
                return self._forget(identity, f"left: {message.reason}", polite=True) + self.issue(now)
            case _:
                what = f"a producer does not send {message.kind}"
                return self._nack(identity, None, "direction", what, retryable=False)

    def _on_hello(self, identity: bytes, header: Header, message: Hello, now: float) -> list[Action]:
        manifest = message.manifest
        if (refusal := self._refusal(identity, message.producer, manifest)) is not None:
            word, reason = refusal
            note = self._count(message.producer, word, reason)
            self.last_refusal = reason
            actions: list[Action] = [Send(identity, Reject(reason=reason)), *note]
            return actions + (self._forget(identity, "changed its engine") if identity in self.peers else [])
        before = self.peers.get(identity)
        # One that has waited for us has said it several times.
        is_new = before is None or before.state is not PeerState.WARMING
        actions = self._forget(identity, "said HELLO again") if before and is_new else []
        if before and is_new:
            actions = self._told_in_rounds("HELLO", message.producer, actions)
        self.engines.setdefault(manifest.kind, manifest)
        peer = Peer(message.producer, manifest, last_heard=now, last_seq=header.seq)
        peer.lot = draw(self.rank, message.producer)
        self.peers[identity] = peer
        welcome = Welcome(
            rank=self.rank,
            world_size=len(self.endpoints),
            endpoints=self.endpoints,
            keys=self.keys,
            heartbeat_ms=int(self.patience.heartbeat_s * 1000),
            lease_ms=int(self.patience.lease_s * 1000),
            trace=self.traces,
        )
        lossy = f"; its images come as {manifest.codec}, which is lossy" if manifest.is_lossy else ""
        key = f" with the key of {name}" if (name := self._key_name(identity)) else ""
        joined: list[Action] = [Note(f"{message.producer} joined{key}{lossy}")] if before is None else []
        if self._rejoined.counts[_BROKEN, message.producer]:
            joined = self._told_in_rounds("joined", message.producer, joined)
        return [*actions, Send(identity, welcome), *joined]

    def _refusal(self, identity: bytes, producer: str, manifest: Manifest) -> tuple[str, str] | None:
        """Why a producer cannot serve the run, as the word that is counted and a sentence; or None."""
        if identity not in self.peers and len(self.peers) >= MAX_PRODUCERS:
            return "crowd", f"this rank has {MAX_PRODUCERS} producers, which is its limit; see --max-ranks"
        return refusal(producer, manifest, self.expects, self.engines.get(manifest.kind))

    def _on_result(
        self, identity: bytes, peer: Peer, result: Result, outcome: Pixels | Flaw | None, now: float
    ) -> list[Action]:
        if peer.state is PeerState.STALLED:
            peer.state = PeerState.READY  # whatever it is worth: the engine works
        key = result.key
        held = self._held(identity, (key,))
        if not held:
            return self._nack(identity, key, "stale", "not held by you any more", retryable=False)
        peer.worked_at = now
        entry, hold = held[0]
        if outcome is None:
            raise ValueError(f"the pixels of ticket {key.index} are wanted and were not inspected")
        if isinstance(outcome, Flaw):
            return self._on_flaw(identity, peer, entry, hold, outcome)
        peer.bad_results = peer.refusals = self._quarantined_in_row[entry.model_digest] = 0
        if not entry.ticket.probe:
            # How long a probe takes says nothing of when the next group is late.
            if hold.started_at is not None:
                peer.service.add(now - hold.started_at)
                self._service[entry.model_digest].add(now - hold.started_at)
            self._turnaround[entry.model_digest].add(now - hold.issued_at)
        actions: list[Action] = []
        for other in tuple(entry.holds):
            self._let_go(entry, other)
            if other is not hold:
                actions.append(Send(other.holder, Cancel(attempts=(other.key,))))
                if other.issued_at < hold.issued_at:
                    actions += self._stall(other.holder, f"was overtaken on ticket {key.index}", keeps_begun=True)
        peer.arrive(key, entry.ticket, outcome.wire_bytes)
        if peer.awaits_ack:
            actions.append(Send(identity, peer.acknowledge()))
        ticket = replace(entry.ticket, attempt=key.attempt)
        group = Deliver(
            ticket,
            outcome.buffer,
            peer.name,
            peer.manifest,
            outcome.wire_bytes,
            candidates=result.candidates,
            num_made=result.num_made,
            num_unsatisfied=result.num_unsatisfied,
            crc32=result.crc32,
        )
        return [*self._table.buffer(entry, group), *actions]

    def _on_flaw(self, identity: bytes, peer: Peer, entry: Entry, hold: Hold, flaw: Flaw) -> list[Action]:
        # What was garbled says nothing of the ticket; what the model made of it nothing of the producer.
        fault = Fault.TICKET if flaw.word == BLANK else Fault.PRODUCER
        peer.refusals += flaw.word == BLANK
        peer.bad_results += flaw.word != BLANK
        what = f"{flaw.word}: {flaw.what}"
        actions = self._nack(identity, hold.key, flaw.word, flaw.what)
        quiet = not any(isinstance(action, Note) for action in actions)  # it was told often enough
        actions += self._take_back(entry, hold, f"{peer.name} sent a broken group: {what}", fault, quiet=quiet)
        if peer.bad_results >= self.patience.max_bad_results:
            reason = f"{peer.bad_results} broken groups in a row, the last: {what}"
            actions += [Send(identity, Reject(reason=reason)), *self._forget(identity, f"refused: {reason}")]
            actions = self._told_in_rounds(_BROKEN, peer.name, actions)
        return actions

    def _on_nack(self, identity: bytes, peer: Peer, nack: Nack) -> list[Action]:
        why = f"{self._name(identity)} could not make it: {nack.reason}"
        actions: list[Action] = []
        for entry, hold in self._held(identity, (nack.key,) if nack.key else ()):
            quiet = peer.is_doubtful  # what it says is known by now
            fault = Fault.NOBODY if nack.retryable else Fault.TICKET
            actions += self._take_back(entry, hold, why, fault, quiet=quiet)
            if not nack.retryable:
                peer.refusals += 1
            elif peer.state is PeerState.READY:
                peer.state = PeerState.STALLED  # it has no room, and gets no more until it says READY
        return actions

    def _on_drain(self, identity: bytes, peer: Peer, drain: Drain) -> list[Action]:
        actions: list[Action] = []
        if peer.state is not PeerState.DRAINING:
            what = f"{len(drain.returned)} of {len(peer.held)} tickets go to others"
            actions.append(Note(f"{peer.name} drains: {drain.reason}; {what}"))
        peer.state = PeerState.DRAINING
        for entry, hold in self._held(identity, drain.returned):
            actions += self._take_back(entry, hold, f"{peer.name} drains", Fault.NOBODY, quiet=True)
        return actions

    # --- time ---------------------------------------------------------------------------------------------------------

    def _watch_silence(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for identity, peer in list(self.peers.items()):
            silent_s = now - peer.last_heard
            if silent_s > 3 * self.patience.lease_s:
                actions += self._forget(identity, f"has been silent for {silent_s:.0f} s")
            elif peer.state is not PeerState.SUSPECT and silent_s > 3 * self.patience.heartbeat_s:
                peer.awake, peer.state = peer.state, PeerState.SUSPECT
                actions.append(Note(f"{peer.name} has been silent for {silent_s:.0f} s", warning=True))
        return actions

    def _watch_fleet(self, now: float) -> list[Action]:
        """Say when the fleet as a whole has come, gone, or come back; of each kind of images apart."""
        actions = [action for kind in self.expects for action in self._watch_kind(kind, now)]
        self.fleet = worst(self._fleets.values())
        return actions

    def _watch_kind(self, kind: Kind, now: float) -> list[Action]:
        peers = [peer for peer in self.peers.values() if peer.manifest.kind is kind]
        state = state_of(peers, any_came=kind in self.engines)
        if state is self._fleets[kind]:
            return []
        self._fleets[kind] = state
        which = f"{kind.value} images: " if len(self.expects) > 1 else ""
        if state in (FleetState.GONE, FleetState.SILENT):
            self._lost_at.setdefault(kind, now)
            where = self.endpoints[self.rank]
            return [Note(f"{which}{state.value}; rank {self.rank} waits for one at {where}", warning=True)]
        if state is FleetState.SERVING and kind in self._lost_at:
            return [Note(f"{which}{state.value} again, after {now - self._lost_at.pop(kind):.1f} s without any")]
        return []

    def _fleet_of(self, entry: Entry) -> FleetState:
        real = self.expects.get(Kind.REAL)
        is_real = real is not None and entry.model_digest == real.model_digest
        return self._fleets.get(Kind.REAL if is_real else Kind.GENERATED, self.fleet)

    # --- bookkeeping --------------------------------------------------------------------------------------------------

    def _name(self, identity: bytes) -> str:
        if identity not in self.peers and (key := self._key_name(identity)):
            return f"unknown with the key of {key}"
        return super()._name(identity)

    def _told_in_rounds(self, how: str, producer: str, actions: list[Action]) -> list[Action]:
        """The actions; their notes only the first, second, fourth, … time that a producer has come back in this way."""
        if self._rejoined.counts_round(how, producer):
            return actions
        return [action for action in actions if not isinstance(action, Note)]

    def _count(self, name: str, reason: str, detail: str) -> list[Action]:
        """Count a dropped message; noted at the first, second, fourth, … so that a flood does not flood the log."""
        count = self.rejects.counts_round(reason, name)
        times = f" ({count} times)" if count > 1 else ""
        return [Note(f"refused a message of {name}{times}: {detail}", warning=True)] if count else []

    def _nack(
        self, identity: bytes, key: Attempt | None, reason: str, detail: str, *, retryable: bool = True
    ) -> list[Action]:
        """Refuse a message and say why; without a key and retryable, it asks for a HELLO."""
        text = f"{reason}: {detail}"
        index, attempt = (key.index, key.attempt) if key else (-1, 0)
        note = self._count(self._name(identity), reason, text)
        return [Send(identity, Nack(index=index, attempt=attempt, reason=text, retryable=retryable)), *note]
