"""How long a rank waits for groups, and what it says when it waits no longer."""

import time
from collections.abc import Callable

from penstock.consumer.config import StreamConfig
from penstock.protocol.errors import StarvedError
from penstock.protocol.fleet import FleetState
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.tickets import Kind


class Starvation:
    """Ends the wait of whoever takes a rank's groups.

    Args:
        machine: the rank's state machine; whoever calls holds its lock.
        config: how long to wait.
        watch: says why no producer of a kind can be hoped for, or None.
    """

    def __init__(self, machine: RankMachine, config: StreamConfig, watch: Callable[[Kind], str | None]) -> None:
        self._machine = machine
        self._config = config
        self._watch = watch

    def check(self, waited_s: float, *, any_seen: bool, endpoint: str) -> None:
        """Raises StarvedError where nothing can be hoped for, or after too long.

        Args:
            waited_s: seconds without any progress.
            any_seen: whether any producer has ever come.
            endpoint: the rank's address, for whoever should start a producer.
        """
        lacking = self._machine.lacking
        for kind in self._machine.expects:
            # Asked of every kind: it logs what has ended.
            hopeless = self._watch(kind)
            if hopeless and kind in lacking:
                raise StarvedError(hopeless)
        warming = self._machine.fleet is FleetState.WARMING
        if waited_s > (self._config.warmup_timeout_s if warming else self._config.producer_timeout_s):
            raise StarvedError(self._why_starved(waited_s, warming, any_seen, endpoint))

    def _why_starved(self, silent_s: float, warming: bool, any_seen: bool, endpoint: str) -> str:
        lacks = [self._machine.expects[kind].lack for kind in self._machine.lacking]
        refused = (
            f"; the last that came was refused: {self._machine.last_refusal}" if self._machine.last_refusal else ""
        )
        if any(lacks):
            commands = "; ".join(f"{lack} --connect {endpoint}" for lack in lacks)
            return f"rank {self._machine.rank} has had no group for {silent_s:.0f} s: {commands}{refused}"
        names = sorted(peer.name for peer in self._machine.peers.values())
        who = f"{len(names)} producers are connected ({', '.join(names[:4])})"
        if warming:
            return (
                f"{who}, but none has loaded its model in {silent_s:.0f} s; see their logs, "
                "or raise stream.warmup_timeout_s"
            )
        if names:
            what = self._machine.describe_wait(time.monotonic())
            return (
                f"rank {self._machine.rank} has had no group for {silent_s:.0f} s, though {who}; it waits for {what}; "
                "see their logs, or raise stream.producer_timeout_s for a slow model"
            )
        came = "no producer is left" if any_seen else "no producer came"
        if refused and not any_seen:
            return f"no producer that the run can use came in {silent_s:.0f} s at {endpoint}{refused}"
        key = " --key FILE" if self._config.keys else ""
        return (
            f"{came} in {silent_s:.0f} s; start one: penstock produce --connect {endpoint}{key} "
            "(--help lists its settings)"
        )
