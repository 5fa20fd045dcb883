"""The producers of a rank as people see them: how fast each is; one that has left stays in view for a while."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from penstock.config.process import printable
from penstock.protocol.fleet import PeerLook
from penstock.telemetry.rates import Rates
from penstock.telemetry.recorder import quantile
from penstock.telemetry.run_view import ProducerView

GONE = "gone"
_SHOWN_GONE_S = 300.0
"""How long a producer that has left stays in view."""
_MOST_GONE = 16
"""Producers that have left and are in view, at most: a fleet on pre-emptible machines loses many."""


class _Total:
    """A count that goes on where its producer, or its connection, began anew."""

    def __init__(self) -> None:
        self.value = 0.0
        self._before = 0.0
        self._last = 0.0

    def update(self, count: float, *, anew: bool = False) -> None:
        """It is `count` now; `anew` where it has begun again, which a count that has fallen shows by itself."""
        if anew or count < self._last:
            self._before += self._last
        self._last, self.value = count, self._before + count


@dataclass(slots=True)
class _Known:
    """What is known of a producer by its name, through all its connections."""

    peer: PeerLook
    seen_at: float
    place: tuple[tuple[int, str], ...]
    """Where its name stands among others."""
    is_gone: bool = False
    images: _Total = field(default_factory=_Total)
    busy_s: _Total = field(default_factory=_Total)
    flops: _Total = field(default_factory=_Total)


class FleetViews:
    """Follows a rank's producers from look to look. Times are seconds on the caller's clock."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def look(self, peers: Sequence[PeerLook], now: float) -> None:
        """These are connected now."""
        named = _by_name(peers)
        for name, peer in named.items():
            known = self._known.get(name)
            if known is None:
                known = self._known[name] = _Known(peer, now, _natural(name))
            known.images.update(peer.images, anew=known.is_gone)
            if peer.status:
                known.busy_s.update(peer.status.worked_s)
                known.flops.update(peer.status.flops)
            known.peer, known.seen_at, known.is_gone = peer, now, False
        for name in self._known.keys() - named.keys():
            self._known[name].is_gone = True
        gone = sorted((known.seen_at, name) for name, known in self._known.items() if known.is_gone)
        for place, (seen_at, name) in enumerate(reversed(gone)):
            if place >= _MOST_GONE or now - seen_at > _SHOWN_GONE_S:
                del self._known[name]

    @property
    def counters(self) -> Mapping[Hashable, float]:
        """What each producer has done, for `Rates`."""
        counters: dict[Hashable, float] = {}
        for name, known in self._known.items():
            counters["images", name] = known.images.value
            if known.peer.status:
                counters["busy", name], counters["flops", name] = known.busy_s.value, known.flops.value
        return counters

    def views(self, rates: Rates, now: float) -> tuple[ProducerView, ...]:
        """All of them, by name; `rates` has been given the counters."""
        ordered = sorted(self._known.items(), key=lambda item: item[1].place)
        return tuple(self._view(name, known, rates, now) for name, known in ordered)

    def _view(self, name: str, known: _Known, rates: Rates, now: float) -> ProducerView:
        peer = known.peer
        took, status = sorted(peer.service_s), peer.status
        flops_per_s = rates.seldom_per_s(("flops", name))
        view = ProducerView(
            name=name,
            state=peer.state.value,
            device=printable(peer.manifest.device),
            backend=printable(peer.manifest.backend),
            images=round(known.images.value),
            images_per_s=rates.seldom_per_s(("images", name)),
            held=peer.held,
            credit_groups=peer.credit_groups,
            silent_s=peer.silent_s + now - known.seen_at,
            p50_s=quantile(took, 0.5) if took else None,
            p95_s=quantile(took, 0.95) if took else None,
            busy_share=min(1.0, rates.seldom_per_s(("busy", name))) if status else None,
            flop_share=flops_per_s / status.matrix_flops_per_s if status and status.matrix_flops_per_s else None,
        )
        return (
            replace(view, state=GONE, images_per_s=0.0, held=0, credit_groups=0, busy_share=None, flop_share=None)
            if known.is_gone
            else view
        )


def _by_name(peers: Sequence[PeerLook]) -> dict[str, PeerLook]:
    """By a name of its own each: two machines may have given their producers the same one."""
    named: dict[str, PeerLook] = {}
    for peer in peers:
        name = unique = printable(peer.name)
        number = 1
        while unique in named:
            number += 1
            unique = f"{name} ({number})"
        named[unique] = peer
    return named


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """For sorting: `gpu-9` before `gpu-10`."""
    parts: list[tuple[int, str]] = []
    digits = ""
    for char in f"{name}\0":
        if char.isascii() and char.isdigit():
            digits += char
            continue
        if digits:
            parts.append((int(digits), ""))
            digits = ""
        parts.append((-1, char))
    return tuple(parts)
