"""Who makes the images that are measured: the fleet before the first measurement, and what has become of it since."""

import logging
import time
from dataclasses import dataclass

from penstock.consumer.local_fleet import LocalFleet
from penstock.consumer.stream import GroupStream
from penstock.protocol.errors import StarvedError
from penstock.protocol.fleet import FleetState, PeerLook, PeerState
from penstock.protocol.tickets import IMAGES
from penstock.telemetry.profile.wording import counted

_log = logging.getLogger(__name__)

_LOOK_S = 0.05
_ALL_READY_S = 120.0
"""How long those that still load may keep the others waiting, once enough producers are ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """A producer that was ready when measuring began."""

    name: str
    device: str
    backend: str
    is_local: bool
    ready_s: float | None
    generates: bool = True


class RollCall:
    """The producers that are measured, of one rank.

    Args:
        stream: who comes and goes.
        fleet: the producers that this rank has started itself; None for none.
        on_this_machine: whether all producers are on the rank's machine, as they reach it by its own address.
        begun: `time.monotonic` at the start of the program.
    """

    def __init__(self, stream: GroupStream, fleet: LocalFleet | None, *, on_this_machine: bool, begun: float) -> None:
        self._stream, self._fleet = stream, fleet
        self._on_this_machine, self._begun = on_this_machine, begun
        self.met: tuple[Met, ...] = ()
        self.left: set[str] = set()
        """Names of those that have gone since, whether or not they came back."""
        self.joined: set[str] = set()
        """Of those that have come since."""

    def wait(self, wanted: int, timeout_s: float) -> None:
        """Wait until so many producers are ready, and no other is still loading.

        Raises StarvedError where that takes too long, or where one that the run has started has ended before.
        """
        ready_s: dict[str, float] = {}
        enough_at, deadline = None, time.monotonic() + timeout_s
        while True:
            now, look = time.monotonic(), self._stream.look()
            ready = {peer.name: peer for peer in look.peers if peer.state is PeerState.READY}
            for name in ready:
                ready_s.setdefault(name, now - self._begun)
            is_loading = any(peer.state is PeerState.WARMING for peer in look.peers)
            # Serving: of a run with two kinds of images, there is one of each.
            is_enough = len(ready) >= wanted and look.fleet is FleetState.SERVING
            enough_at = (enough_at or now) if is_enough else None
            if enough_at is not None and (not is_loading or now > enough_at + _ALL_READY_S):
                break
            self._look_after_own(len(ready), wanted)
            if now > deadline:
                raise StarvedError(
                    f"{len(ready)} of {wanted} producers were ready in {timeout_s:g} s; see their logs, or raise "
                    "stream.warmup_timeout_s"
                )
            time.sleep(_LOOK_S)
        self.met = tuple(self._meet(ready[name], ready_s[name]) for name in sorted(ready))
        _log.info("ready: %s", counted(len(self.met), "producer"))

    def check(self) -> None:
        """Take note of who has come and who has gone, and say so once."""
        if self._fleet:
            self._fleet.check()
        peers = self._stream.look().peers
        met = {each.name for each in self.met}
        stay = {peer.name for peer in peers if peer.state is not PeerState.DRAINING}
        came = {peer.name for peer in peers if peer.state is PeerState.READY} - met
        for name in sorted(met - stay - self.left):
            _log.warning("producer %s has left while it is measured", name)
        for name in sorted(came - self.joined):
            _log.warning("producer %s has joined while the others are measured", name)
        self.left |= met - stay
        self.joined |= came

    def _look_after_own(self, num_ready: int, wanted: int) -> None:
        """Raises StarvedError where one of the run's own producers will never come."""
        if self._fleet is None:
            return
        self._fleet.check()
        if lost := self._fleet.lost:
            raise StarvedError(f"{num_ready} of {wanted} producers are ready, and no more will be: {lost[0]}")

    def _meet(self, peer: PeerLook, ready_s: float) -> Met:
        return Met(
            name=peer.name,
            device=peer.manifest.device,
            backend=peer.manifest.backend,
            is_local=self._on_this_machine or (self._fleet is not None and peer.name in self._fleet.names),
            ready_s=ready_s,
            generates=peer.manifest.backend != IMAGES,
        )
