"""Looks at a rank while it runs, again and again, from a thread of their own; and what lies between two of them."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from penstock.consumer.prefetch import BatchesLook, Prefetcher
from penstock.consumer.profile_run.pouring import Arrival
from penstock.consumer.stream import GroupStream
from penstock.consumer.stream_look import StreamLook
from penstock.protocol.fleet import PeerLook
from penstock.protocol.watching import Status
from penstock.telemetry.profile.measurements import Queue, Service, StageTimes
from penstock.telemetry.recorder import Recorder, Taken, quantile

_CALIBRATION = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A rank at one moment."""

    at_s: float
    """On the monotonic clock."""
    stream: StreamLook
    batches: BatchesLook
    wait_s: float
    """That steps have waited so far."""
    groups_by_uses: tuple[int, ...]
    taken: Mapping[str, Taken]


def look_at(stream: GroupStream, batches: Prefetcher) -> Look:
    """How it is now."""
    return Look(
        at_s=time.monotonic(),
        stream=stream.look(),
        batches=batches.look(),
        wait_s=batches.wait_s,
        groups_by_uses=tuple(batches.groups_by_uses),
        taken=stream.recorder.taken(),
    )


class Looks:
    """Looks at stream and batches every `every_s` seconds while it is entered. A context manager."""

    def __init__(self, stream: GroupStream, batches: Prefetcher, every_s: float) -> None:
        self._stream, self._batches, self._every_s = stream, batches, every_s
        self._seen: list[tuple[float, StreamLook, BatchesLook]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="penstock-looks", daemon=True)
        self.cost_s = 0.0
        """Processor time that looking has taken."""

    def queues(self, since_s: float, until_s: float) -> tuple[tuple[float, ...], tuple[Queue, ...]]:
        """When they looked between two moments, in seconds since the first; and what they saw of every queue."""
        seen = [each for each in self._seen if since_s <= each[0] <= until_s]
        if not seen:
            return (), ()
        _, stream, batches = seen[-1]
        filled = {
            "tickets": (stream.credit_groups, [look.held for _, look, _ in seen]),
            "arrived": (stream.window_groups, [look.arrived_groups for _, look, _ in seen]),
            "reservoir": (batches.capacity_groups, [look.reservoir_groups for _, _, look in seen]),
            "batches": (1, [int(look.is_ready) for _, _, look in seen]),
        }
        queues = (Queue(name=name, capacity=room, filled=tuple(full)) for name, (room, full) in filled.items())
        return tuple(at - since_s for at, _, _ in seen), tuple(queues)

    def arrivals(self) -> list[Arrival]:
        """What has come, as of the look that first saw it."""
        found: list[Arrival] = []
        before: dict[str, int] = {}
        for at, stream, _ in self._seen:
            for peer in stream.peers:
                if (came := peer.images - before.get(peer.name, peer.images)) > 0:
                    found.append(Arrival(at, peer.name, came))
                before[peer.name] = peer.images
        return found

    def _work(self) -> None:
        while not self._over.wait(self._every_s):
            begun = time.thread_time()
            self._seen.append((time.monotonic(), self._stream.look(), self._batches.look()))
            self.cost_s += time.thread_time() - begun

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()


def stages_between(before: Look, after: Look) -> dict[str, StageTimes]:
    """How long each stage took from one look to the next. Its quantiles are of the last that are remembered."""
    stages = {name: _between(before.taken.get(name), taken) for name, taken in sorted(after.taken.items())}
    return {name: stage for name, stage in stages.items() if stage is not None}


def services_between(before: Look, after: Look, rank: int) -> list[Service]:
    """How long each producer took for the rank's tickets from one look to the next."""
    groups = {peer.name: peer.groups for peer in before.stream.peers}
    found = []
    for peer in after.stream.peers:
        number = peer.groups - groups.get(peer.name, 0)
        durations = sorted(peer.service_s[-number:]) if number > 0 else []
        if durations:
            p50_s, p95_s = quantile(durations, 0.5), quantile(durations, 0.95)
            found.append(Service(producer=peer.name, rank=rank, groups=number, p50_s=p50_s, p95_s=p95_s))
    return found


def worked_between(before: StreamLook, after: StreamLook) -> dict[str, tuple[int, float]]:
    """By producer the images that it made from one look to the next, for all ranks, and the seconds that it worked.

    Of those that told of their work meanwhile; the seconds are those of what was finished, as the images are.
    """
    return {
        name: (told.images - told_before.images, told.busy_s - told_before.busy_s)
        for name, (told_before, told) in _told_between(before, after).items()
    }


def shares_between(before: StreamLook, after: StreamLook) -> dict[str, tuple[float, float | None]]:
    """By producer the share of the time between two looks that its engine worked, and its share of matrix products.

    Of those that told of their work meanwhile; the second is None where its arithmetic is not known.
    """
    found: dict[str, tuple[float, float | None]] = {}
    for name, (told_before, told) in _told_between(before, after).items():
        seconds = (told.clock_ns - told_before.clock_ns) * 1e-9
        reachable = seconds * told.matrix_flops_per_s
        flop_share = (told.flops - told_before.flops) / reachable if reachable and told.flops else None
        found[name] = min(1.0, (told.worked_s - told_before.worked_s) / seconds), flop_share
    return found


def events_between(before: Look, after: Look) -> int:
    """Durations that the recorder took note of."""
    return sum(taken.count for taken in after.taken.values()) - sum(taken.count for taken in before.taken.values())


def cost_of_an_event_s() -> float:
    """What the recorder takes for one, on this machine now."""
    recorder, begun = Recorder(), time.perf_counter()
    for _ in range(_CALIBRATION):
        recorder.add("calibration", 0, 1000)
    return (time.perf_counter() - begun) / _CALIBRATION


def peers_by_name(look: StreamLook) -> dict[str, PeerLook]:
    """The producers; of two by one name the one that has sent more."""
    return {peer.name: peer for peer in sorted(look.peers, key=lambda peer: peer.images)}


def _told_between(before: StreamLook, after: StreamLook) -> dict[str, tuple[Status, Status]]:
    """By producer what it had told of its work, and what it told later."""
    found = {}
    earlier = peers_by_name(before)
    for name, peer in peers_by_name(after).items():
        told, told_before = peer.status, earlier[name].status if name in earlier else None
        if told is not None and told_before is not None and told.clock_ns > told_before.clock_ns:
            found[name] = told_before, told
    return found


def _between(before: Taken | None, after: Taken) -> StageTimes | None:
    count = after.count - (before.count if before else 0)
    durations = sorted(after.recent_s[-count:]) if count > 0 else []
    if not durations:
        return None
    p50_s, p95_s, p99_s = (quantile(durations, share) for share in (0.5, 0.95, 0.99))
    seconds = after.seconds - (before.seconds if before else 0.0)
    return StageTimes(count=count, seconds=seconds, p50_s=p50_s, p95_s=p95_s, p99_s=p99_s)
