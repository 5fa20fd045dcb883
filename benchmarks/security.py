"""A rank under siege: what 480 strangers and three malicious insiders cost an honest fleet, and what the log says.

    python benchmarks/security.py --json runs/bench/security.json

One rank lives through it all: `penstock.consumer.paced` with keys, and two paced producers, which bound the run. Quiet
windows and sieges take turns. In a siege there come, all at the same time:

- 480 strangers without a key (silent ones, slow-loris, HTTP, random bytes, plain ZeroMQ clients, clients with a wrong
  key), of whom 300 and more are connected at any time, because each comes again when it is hung up on; and one who asks
  for the metrics without their token;
- three who hold a good key: a bomber (msgpack and JPEG bombs, oversize, pickle), a flooder (nonsense as fast as the
  socket takes it, and again when it is hung up on), and a byzantine producer (takes tickets, and answers with lying
  shapes, wrong checksums, replays);
- a producer whose key is revoked in the middle.

Honest throughput is what the honest producers made and the rank trained on, by the ledger; the ratio of a siege is to
the quiet windows before and after it. The attackers give way to all others for the processor (nice 5), which they
would not share with the rank; what the rank does about them it does with its own.
"""

import json
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import harness
from harness import BenchmarkError
from rich.console import Console
from rich.table import Table
from siege.besieged import HONEST, LEAVER_SHARE, NUM_IMAGES, Besieged, flooder, leaver
from siege.insiders import InsiderPlan
from siege.strangers import StrangerPlan
from siege.verdict import MIN_CONNECTIONS, Check, Measured, Siege, Window, judge, ratios

ROLES = ("bomber", "flooder", "byzantine")
WARM_UP_S = 5.0
SAMPLE_S = 0.1
ARRIVAL_S = 60.0
"""The longest that the attackers may take to be there."""
GRACE_S = 3.0
"""From a revocation until nothing of the key may be trained on: the list is looked at every second, and what came
before may wait in the reservoir for a moment."""
SETTLE_S = 15.0
"""The longest that the rank may take to let go of the attackers' connections."""
PACKAGES = ("pyzmq", "msgpack", "numpy")


class Peaks:
    """The most memory and files of the rank while it is entered."""

    def __init__(self, besieged: Besieged) -> None:
        self._besieged = besieged
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.mb, self.descriptors = 0.0, 0

    def _look(self) -> None:
        while True:
            self.mb = max(self.mb, self._besieged.resident_bytes() / 1e6)
            self.descriptors = max(self.descriptors, self._besieged.descriptors())
            if self._over.wait(SAMPLE_S):
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()


class Revocation:
    """Takes the key of a producer back when it is called.

    Args:
        besieged: by whom.
        who: whose.
    """

    def __init__(self, besieged: Besieged, who: str) -> None:
        self._besieged = besieged
        self._who = who
        self.num_before = besieged.trained()[who]
        """Groups of it by now."""
        self._num_in_time = 0

    def __call__(self) -> None:
        """Revoke it, and give the rank its time to see that."""
        self._besieged.revoke(self._who)
        time.sleep(GRACE_S)
        self._num_in_time = self._besieged.trained()[self._who]

    @property
    def num_late(self) -> int:
        """Groups of it that came after that."""
        return self._besieged.trained()[self._who] - self._num_in_time


def watch(besieged: Besieged, seconds: float, halfway: Callable[[], None] = lambda: None) -> Window:
    """A window of the run, in whose middle `halfway` is called. Raises BenchmarkError where an honest process ends."""
    with Peaks(besieged) as peaks:
        before, begun = besieged.trained(), time.monotonic()
        time.sleep(max(0.0, seconds / 2 - GRACE_S))
        halfway()
        time.sleep(max(0.0, begun + seconds - time.monotonic()))
        after, lasted = besieged.trained(), time.monotonic() - begun
    besieged.check()
    images = NUM_IMAGES * sum(after[name] - before[name] for name in HONEST)
    return Window(images_per_s=images / lasted, peak_mb=peaks.mb, peak_descriptors=peaks.descriptors)


def besiege(besieged: Besieged, number: int, seconds: float) -> Siege:
    """One siege, from the coming of its attackers until the rank has let go of them.

    Raises BenchmarkError where they do not come, or do not say what they did.
    """
    who = leaver(number)
    besieged.produce(who, besieged.images_per_s * LEAVER_SHARE)
    besieged.until_trained(who)
    refused, descriptors = besieged.refused(), besieged.descriptors()
    until, reports = besieged.folder / f"enough-{number}", {}
    for role in ROLES:
        reports[role] = besieged.folder / f"{role}-{number}.json"
        key = str(besieged.key(flooder(number) if role == "flooder" else role))
        plan = InsiderPlan(role=role, endpoint=besieged.endpoint, key=key, until=str(until), report=str(reports[role]))
        besieged.besiege(f"{role}-{number}", "siege.insiders", plan)
    reports["strangers"] = besieged.folder / f"strangers-{number}.json"
    strangers = StrangerPlan(
        port=besieged.port,
        rank_key=besieged.rank_key,
        until=str(until),
        report=str(reports["strangers"]),
    )
    besieged.besiege(f"strangers-{number}", "siege.strangers", strangers)
    begun = time.monotonic()
    while besieged.descriptors() < descriptors + MIN_CONNECTIONS // 3:
        if time.monotonic() > begun + ARRIVAL_S:
            raise BenchmarkError(f"the attackers did not come: {besieged.log(f'strangers-{number}')[-300:]}")
        time.sleep(SAMPLE_S)
    revocation = Revocation(besieged, who)
    window = watch(besieged, seconds, revocation)
    status = metrics_status(besieged)
    until.touch()
    deeds = {name: read_report(besieged, f"{name}-{number}", path) for name, path in reports.items()}
    lasted, seen = time.monotonic() - begun, deeds.pop("strangers")
    after = settled(besieged, descriptors)
    said = (besieged.log(who).strip() or "nothing").splitlines()
    besieged.processes.kill(who)
    return Siege(
        window=window,
        seconds=lasted,
        refused=dict(besieged.refused() - refused),
        strangers={name: seen[name] for name in ("opened", "hung_up", "let_in", "at_a_time")},
        together=seen["together"],
        insiders=deeds,
        leaver_before=revocation.num_before,
        leaver_late=revocation.num_late,
        leaver_said=next((line for line in reversed(said) if "key" in line), said[-1]),
        descriptors_before=descriptors,
        descriptors_after=after,
        metrics_strangers=status,
    )


def metrics_status(besieged: Besieged) -> int:
    """What someone hears who asks for the metrics without their token."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{besieged.metrics_port}/metrics", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def read_report(besieged: Besieged, name: str, path: Path) -> dict[str, Any]:
    """What an attacker did, when it has ended. Raises BenchmarkError where it does not say."""
    deadline = time.monotonic() + ARRIVAL_S
    while besieged.processes.lives(name):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{name} does not end")
        time.sleep(SAMPLE_S)
    if not path.is_file():
        raise BenchmarkError(f"{name} has failed: {besieged.log(name)[-300:]}")
    return dict(json.loads(path.read_text()))


def settled(besieged: Besieged, descriptors: int) -> int:
    """Files of the rank when there are as many as before the siege, or its time to let go is over."""
    deadline = time.monotonic() + SETTLE_S
    while (now := besieged.descriptors()) > descriptors and time.monotonic() < deadline:
        time.sleep(SAMPLE_S)
    return now


def measure(folder: Path, images_per_s: float, rounds: int, seconds: float) -> Measured:
    """Live through so many sieges. Raises BenchmarkError where anything fails that must not."""
    with Besieged(folder, images_per_s, rounds) as besieged:
        for name in HONEST:
            besieged.produce(name, images_per_s)
        for name in HONEST:
            besieged.until_trained(name)
        time.sleep(WARM_UP_S)
        quiet, sieges = [watch(besieged, seconds)], []
        log_before = besieged.log()
        for number in range(rounds):
            sieges.append(besiege(besieged, number, seconds))
            quiet.append(watch(besieged, seconds))
            rate = f"{sieges[-1].window.images_per_s:,.0f} images/s under siege, {quiet[-1].images_per_s:,.0f} after it"
            print(f"siege {number + 1} of {rounds}: {rate}", file=sys.stderr)
        log = besieged.log()[len(log_before) :]
        honest_logs = {name: besieged.log(name) for name in HONEST}
        besieged.processes.kill()
        return Measured(
            quiet=quiet,
            sieges=sieges,
            log_before=log_before,
            log=log,
            honest_logs=honest_logs,
            ledger=besieged.spoilt(),
            honest=HONEST,
        )


def summarise(measured: Measured, checks: list[Check]) -> dict[str, Any]:
    """The figures, for people and programs."""
    return {
        "ratio": sorted(ratios(measured))[len(measured.sieges) // 2],
        "ratios": ratios(measured),
        "is_met": all(check.is_met for check in checks),
        "checks": [asdict(check) for check in checks],
        "quiet": [asdict(window) for window in measured.quiet],
        "sieges": [asdict(siege) for siege in measured.sieges],
        "ledger": dict(measured.ledger),
        "log": measured.log.splitlines(),
    }


def print_table(checks: list[Check], rounds: int) -> None:
    """A row for each check."""
    table = Table(title=f"A rank under siege, {rounds} times")
    for column in ("", "must be", "seen", ""):
        table.add_column(column)
    for check in checks:
        table.add_row(check.name, check.bar, check.seen, "yes" if check.is_met else "NO")
    Console().print(table)


def main() -> int:
    """Run the benchmark. Returns the exit status: 0 where every promise was kept."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="sieges (5)")
    parser.add_argument("--seconds", type=float, default=12.0, metavar="S", help="of each window (12)")
    parser.add_argument(
        "--images-per-s", type=float, default=80.0, metavar="N", help="pace of each of the two producers (80)"
    )
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 2 * GRACE_S or options.images_per_s <= 0:
        raise BenchmarkError(f"--rounds must be >= 1, --seconds >= {2 * GRACE_S:g}, --images-per-s > 0")
    usage = harness.CpuUsage()
    with tempfile.TemporaryDirectory(prefix="penstock-security-") as folder:
        measured = measure(Path(folder), options.images_per_s, options.rounds, options.seconds)
    checks = judge(measured)
    print_table(checks, options.rounds)
    harness.write_json(options.json, {**summarise(measured, checks), "others_cpu": usage.others()}, PACKAGES)
    return 0 if all(check.is_met for check in checks) else 1


if __name__ == "__main__":
    harness.run(main)
