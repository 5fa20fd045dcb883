"""The rank under siege and its honest fleet, and what can be seen of them from outside.

The rank is `penstock.consumer.paced`: sockets, protocol, stream, reservoir and ledger are the trainer's own. What it
has trained on, and who made it, stands in its ledger; what it refused in its metrics and its log.
"""

import json
import re
import secrets
import sqlite3
import sys
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
import psutil
from harness import BIN, BenchmarkError

from penstock.consumer.ledger_file import open_ledger_files
from penstock.producer.noise import noise
from penstock.protocol.checksum import crc32
from penstock.protocol.keys import read_trainer_keys

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NUM_IMAGES, SIDE, GROUPS_PER_STEP = 4, 256, 4
HONEST = ("ann", "ben")
START_S = 60.0
END_S = 30.0
LEAVER_SHARE = 0.1
"""Pace of who is to be revoked, as a share of an honest producer's."""
_NEVER = 1_000_000_000


class Besieged:
    """A rank with keys and its honest producers; a context manager.

    Args:
        folder: for keys, logs and the run.
        images_per_s: pace of each honest producer.
        rounds: sieges that are to come: each has its own insiders' keys.
    """

    def __init__(self, folder: Path, images_per_s: float, rounds: int) -> None:
        self.folder = folder
        self.keys = folder / "keys"
        self.run_dir = folder / "run"
        self.images_per_s = images_per_s
        base = harness.free_ports(2)
        self.port, self.metrics_port = base, base + 1
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        self.processes = harness.Processes(folder)
        self._token = secrets.token_urlsafe(24)
        self._penstock("init", "keys", "init", self.keys)
        once = [name for number in range(rounds) for name in (flooder(number), leaver(number))]
        for name in (*HONEST, "bomber", "byzantine", *once):
            # Beside the list: to revoke a key deletes it there.
            self._penstock(f"add-{name}", "keys", "add", self.keys, name, "--out", self.key(name))
        self.rank_key = read_trainer_keys(self.keys).pair.public
        self.rank = self._start_rank()

    def __enter__(self) -> "Besieged":
        return self

    def __exit__(self, *exc: object) -> None:
        self.processes.kill()

    def key(self, name: str) -> Path:
        """File of a producer's key."""
        folder = self.folder / "given"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / f"{name}.key"

    # --- processes ----------------------------------------------------------------------------------------------------

    def _penstock(self, name: str, *arguments: object) -> None:
        self.processes.finish(name, [str(BIN / "penstock"), *map(str, arguments)], START_S)

    def _start_rank(self) -> psutil.Process:
        flags: dict[str, Any] = {
            "images-per-s": 1e9,
            "max-steps": _NEVER,
            "groups-per-step": GROUPS_PER_STEP,
            "min-producers": 1,
            "run-dir": self.run_dir,
            "metrics": self.metrics_port,
            "stream.endpoint": self.endpoint,
            "stream.keys": self.keys,
            "generator.images-per-group": NUM_IMAGES,
            "generator.height": SIDE,
            "generator.width": SIDE,
            "reservoir.reuse": 1,
            "reservoir.capacity-groups": 64,
        }
        command = [sys.executable, "-m", "penstock.consumer.paced", *_flags(flags)]
        started = self.processes.start("rank", command, env={"PENSTOCK_METRICS_TOKEN": self._token})
        return psutil.Process(started.pid)

    def produce(self, name: str, images_per_s: float) -> None:
        """Start an ordinary producer."""
        flags = {"backend": "paced", "paced-images-per-s": images_per_s, "batch-wait-s": 0, "batch-images": 8}
        flags |= {"connect": self.endpoint, "key": self.key(name), "name": name}
        self.processes.start(name, [str(BIN / "penstock"), "produce", *_flags(flags)])

    def revoke(self, name: str) -> None:
        """Let it in no more, while all goes on."""
        self._penstock(f"revoke-{name}", "keys", "revoke", self.keys, name)

    def besiege(self, name: str, module: str, plan: "DataclassInstance") -> None:
        """Start an attacker."""
        argument = json.dumps(asdict(plan))
        self.processes.start(name, [sys.executable, "-m", module, argument], cwd=harness.BENCHMARKS)

    def check(self) -> None:
        """Raises BenchmarkError where the rank or an honest producer has ended."""
        for name in ("rank", *HONEST):
            if not self.processes.lives(name):
                last = (self.processes.log(name).strip() or "it said nothing").splitlines()[-1]
                raise BenchmarkError(f"{name} has ended: {last}")

    # --- what can be seen ---------------------------------------------------------------------------------------------

    def until_trained(self, name: str, within_s: float = START_S) -> None:
        """Wait until the rank has trained on a group of this producer. Raises BenchmarkError where it does not."""
        deadline = time.monotonic() + within_s
        while not self.trained()[name]:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"no group of {name} came in {within_s:.0f} s: {self.log()[-300:]}")
            self.check()
            time.sleep(0.1)

    def trained(self) -> Counter[str]:
        """Groups in the ledger so far, by producer."""
        path = self.run_dir / "ledger-0.sqlite"
        if not path.exists():
            return Counter()
        of = "SELECT name, count(*) FROM groups JOIN producers ON producers.id = groups.producer GROUP BY name"
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
                return Counter(dict(ledger.execute(of)))
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):  # it is just being made
                return Counter()
            raise BenchmarkError(f"{path} cannot be read: {error}") from error

    def refused(self) -> Counter[str]:
        """Messages and connections that the rank has refused so far, by reason; by its metrics."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.metrics_port}/metrics", headers={"Authorization": f"Bearer {self._token}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read().decode()
        kinds = "penstock_(?:messages_rejected|connections_refused)_total"
        found = re.findall(rf'^{kinds}\{{.*?reason="(\w+)".*?\}} (\S+)$', text, re.MULTILINE)
        return Counter({reason: round(float(count)) for reason, count in found})

    def log(self, name: str = "rank") -> str:
        """What it has said so far."""
        return self.processes.log(name)

    def descriptors(self) -> int:
        """Files that the rank has open."""
        return self.rank.num_fds()

    def resident_bytes(self) -> int:
        """Of the rank."""
        return int(self.rank.memory_info().rss)

    def spoilt(self) -> dict[str, Any]:
        """What in the ledger is not as it must be, when all is over: makers, pixels, indices, quarantine.

        The pixels of a paced producer are a function of the ticket; the ledger has the checksum of what came.
        """
        seen: Counter[int] = Counter()
        makers: Counter[str] = Counter()
        num_wrong = 0
        with ExitStack() as stack:
            (ledger,) = open_ledger_files(self.run_dir, stack)
            for group in ledger.groups((), None, None):
                seen[group.index] += 1
                makers[group.producer] += 1
                num_wrong += crc32(noise(group.recipe).reshape(-1)) != group.crc32
            num_quarantined = len(ledger.rows("SELECT id FROM quarantined"))
        return {
            "groups": seen.total(),
            "twice": seen.total() - len(seen),
            "wrong_pixels": num_wrong,
            "quarantined": num_quarantined,
            "makers": dict(makers),
        }


def flooder(number: int) -> str:
    """Whose key the flooder of a siege has: the rank does not hear it again so soon."""
    return f"flooder-{number}"


def leaver(number: int) -> str:
    """Who is to be revoked in a siege."""
    return f"leaver-{number}"


def _flags(settings: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]
