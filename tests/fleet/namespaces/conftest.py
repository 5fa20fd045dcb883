"""Three machines with keys, and the programs on them; all gone when a test ends, however it ends."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from penstock.deploy import keys
from tests.faults.light_producer import ProducerPlan
from tests.faults.light_rank import RankPlan
from tests.faults.programs import LightProducer, LightRank, Program
from tests.fleet.namespaces.hosts import IPV6, Network, address, lacking

P = TypeVar("P", bound=Program)
TRAINER, ANN, BOB = "trainer", "ann", "bob"
NAMES = {"several": (address(3), address(3, IPV6), address(1))}
"""A name of bob's machine and the trainer's; by RFC 6724 ann tries bob's first, whose address is more like her own."""


class Fleet:
    """Ranks on one machine and producers on others, all with keys."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self._folder = folder
        self.keys = folder / "keys"
        keys.main(["init", str(self.keys)])
        for name in (ANN, BOB):
            keys.main(["add", str(self.keys), name])
        self._programs: list[Program] = []

    def rank(self, **plan: Any) -> LightRank:
        """Start a rank on the trainer's machine: the fields of `RankPlan`, less those that are known."""
        events = self._folder / f"rank-{plan.get('rank', 0)}-{plan.get('incarnation', 1)}.jsonl"
        paths = {"events": str(events)} | {name: str(events.with_suffix(f".{name}")) for name in ("go", "enough")}
        # With fewer heartbeats than the other faults have: a narrow link and three machines' work on two cores.
        known = {"keys": str(self.keys), "heartbeat_s": 0.3, "lease_s": 3.0} | paths
        return self._keep(LightRank(RankPlan(**known | plan), self._folder, self.network[TRAINER].inside))

    def producer(self, name: str, connect: str, **plan: Any) -> LightProducer:
        """Start a producer on its own machine."""
        known = {"key": str(self.keys / f"{name}.key"), "events": str(self._folder / f"{name}.jsonl")}
        plan = {"name": name, "connect": connect} | known | plan
        return self._keep(LightProducer(ProducerPlan(**plan), self._folder, self.network[name].inside))

    def revoke(self, name: str) -> None:
        """Let nobody in any more with this producer's key."""
        keys.main(["revoke", str(self.keys), name])

    def program(self, machine: str, name: str, *command: str) -> Program:
        """Start `python COMMAND` on a machine."""
        log = self._folder / f"{name}.log"
        return self._keep(Program(list(command), log, inside=self.network[machine].inside))

    def _keep(self, program: P) -> P:
        self._programs.append(program)
        return program

    def close(self) -> None:
        """End everything."""
        for program in self._programs:
            program.kill()


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Three machines on a switch."""
    if reason := lacking():
        pytest.skip(reason)
    with Network(tmp_path, (TRAINER, ANN, BOB), NAMES) as made:
        yield made


@pytest.fixture
def fleet(network: Network, tmp_path: Path) -> Iterator[Fleet]:
    """The programs."""
    made = Fleet(network, tmp_path)
    yield made
    made.close()
