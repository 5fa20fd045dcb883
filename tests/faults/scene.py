"""The processes of one fault, all gone when its test ends, however it ends."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from tests.faults.light_producer import ProducerPlan
from tests.faults.light_rank import RankPlan
from tests.faults.programs import LightProducer, LightRank, Program
from tests.faults.proxy import Proxy

P = TypeVar("P", bound=Program)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Scene:
    """Starts what a fault needs.

    Args:
        folder: for logs and events.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        self._folder = folder
        self._programs: list[Program] = []
        self._proxies: list[Proxy] = []

    def rank(self, **plan: Any) -> LightRank:
        """Start a rank: the fields of `RankPlan`, less those that the scene knows."""
        number, life = plan.get("rank", 0), plan.get("incarnation", 1)
        events = self._folder / f"rank-{number}-{life}.jsonl"
        paths = {"events": str(events)} | {name: str(events.with_suffix(f".{name}")) for name in ("go", "enough")}
        return self._keep(LightRank(RankPlan(**{"endpoints": [self.endpoint]} | paths | plan), self._folder))

    def producer(self, name: str, **plan: Any) -> LightProducer:
        """Start a producer: the fields of `ProducerPlan`, less those that the scene knows."""
        known = {"name": name, "connect": self.endpoint, "events": str(self._folder / f"{name}.jsonl")}
        return self._keep(LightProducer(ProducerPlan(**known | plan), self._folder))

    def program(self, name: str, *command: str, ends_with_us: bool = True) -> Program:
        """Start `python COMMAND`."""
        return self._keep(Program(list(command), self._folder / f"{name}.log", ends_with_us=ends_with_us))

    def proxy(self, target_port: int | None = None) -> Proxy:
        """Start a proxy before the first rank, or before another port."""
        self._proxies.append(Proxy(self.port if target_port is None else target_port))
        return self._proxies[-1]

    def _keep(self, program: P) -> P:
        self._programs.append(program)
        return program

    def close(self) -> None:
        """End everything."""
        for program in self._programs:
            program.kill()
        for proxy in self._proxies:
            proxy.close()

    def producers_end(self, within_s: float = 10.0) -> Iterator[int]:
        """The exit status of every producer that was not killed, each within a bound."""
        for program in self._programs:
            if isinstance(program, LightProducer) and program.process.returncode is None:
                yield program.end(within_s)
