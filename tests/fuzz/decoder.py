"""The decoder under fire: any bytes end as a message or as a MessageError, within bounded memory and time.

`make fuzz` runs a million messages; `python -m tests.fuzz.decoder --help` lists what can be set. One run with the
same seed and corpus throws the same frames.
"""

import argparse
import re
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from penstock.protocol.codec import decode, encode
from penstock.protocol.errors import MessageError
from penstock.protocol.limits import MAX_HEADER_BYTES, MAX_VALUES
from penstock.protocol.messages import MESSAGE_TYPES
from tests.fuzz.mutator import Mutator
from tests.fuzz.oracle import forbidden

_BATCH = 64

CORPUS = Path(__file__).parent / "corpus"

MAX_PEAK_BYTES = 4 * MAX_HEADER_BYTES + 128 * MAX_VALUES
"""8 MiB allocated for one header beyond its own bytes: four bytes a character (a string with one emoji costs that for
each of its bytes) and 128 bytes for the object, the slot and the key of each value."""
MAX_CPU_S = 0.5
"""Processor time for one header, with the tracing of memory, which makes it four times as slow."""
MAX_LEFT_BYTES = 2 << 20
"""Traced memory that a batch of messages leaves behind: Python keeps some dead tuples and, at times, enlarges its table
of interned strings, of which msgpack makes every key one."""
MAX_GROWTH_BYTES = 64 << 20
"""Resident memory that all the decoding together leaves behind, Python's own and C's."""


def read_corpus() -> dict[str, bytes]:
    """The kept frames by name: `ACK` for a message, `refused-REASON-N` for what is refused with that reason."""
    return {path.stem: path.read_bytes() for path in sorted(CORPUS.glob("*.bin"))}


def make_mutator(seed: int) -> Mutator:
    """A mutator that begins from the corpus."""
    corpus = read_corpus()
    return Mutator(seed, [corpus[kind] for kind in MESSAGE_TYPES], list(corpus.values()))


@dataclass
class Findings:
    """What a run has seen."""

    outcomes: Counter[str] = field(default_factory=Counter)
    misses: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    peak_frame_bytes: int = 0
    slowest_s: float = 0.0
    left_bytes: int = 0
    growth_bytes: int = 0
    signatures: dict[str, bytes] = field(default_factory=dict)
    """The shortest frame for each kind of error text."""

    def miss(self, what: str, frame: bytes) -> None:
        """A frame that the decoder must not treat so."""
        self.misses.append(f"{what}; {len(frame)} bytes: {frame[:200].hex()}{'...' if len(frame) > 200 else ''}")


def throw(frame: bytes, findings: Findings) -> None:
    """Decode one frame and judge what came of it; memory is being traced."""
    tracemalloc.reset_peak()
    before, started = tracemalloc.get_traced_memory()[0], time.thread_time()
    try:
        header, message = decode(frame)
        outcome, text = message.kind, message.kind
    except MessageError as error:
        outcome, text = error.reason, str(error)
    except BaseException as error:  # noqa: BLE001 - what a fuzzer looks for
        outcome, text = "crash", repr(error)
        findings.miss(f"raised {error!r:.200}", frame)
    seconds, peak = time.thread_time() - started, tracemalloc.get_traced_memory()[1] - before
    findings.outcomes[outcome] += 1
    findings.slowest_s = max(findings.slowest_s, seconds)
    if peak > findings.peak_bytes:
        findings.peak_bytes, findings.peak_frame_bytes = peak, len(frame)
    if peak > MAX_PEAK_BYTES:
        findings.miss(f"allocated {peak} bytes, the bound is {MAX_PEAK_BYTES}", frame)
    if seconds > MAX_CPU_S:
        findings.miss(f"took {seconds:.2f} s, the bound is {MAX_CPU_S}", frame)
    signature = re.sub(r"'.*'|[0-9]+", "_", text)
    if len(frame) < len(findings.signatures.get(signature, frame + b"x")):
        findings.signatures[signature] = frame
    if outcome.isupper():
        # A REJECT of another version may hold anything beside its three keys.
        if outcome != "REJECT" and (found := forbidden(frame)):
            findings.miss(f"accepted a frame with {found}", frame)
        if decode(encode(message, header)) != (header, message):
            findings.miss("did not come back as it was", frame)


def throw_all(frames: Sequence[bytes], findings: Findings) -> None:
    """Decode a batch of frames, with memory traced, and see what it leaves behind."""
    process = psutil.Process()
    before = process.memory_info().rss
    tracemalloc.start()
    try:
        for frame in frames:
            throw(frame, findings)
        left = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    findings.left_bytes = max(findings.left_bytes, left)
    findings.growth_bytes += process.memory_info().rss - before


def fuzz(num_messages: int, seed: int, show: bool = False) -> Findings:
    """Throw `num_messages` frames."""
    mutator, findings = make_mutator(seed), Findings()
    started = time.monotonic()
    for first in range(0, num_messages, _BATCH):
        # Made beforehand: traced memory makes Python slow, and the mutator's memory is not the decoder's.
        throw_all([mutator.frame() for _ in range(min(_BATCH, num_messages - first))], findings)
        if show and first % 100_000 < _BATCH:
            sys.stderr.write(f"  {first:,} messages, {time.monotonic() - started:.0f} s\n")
    if findings.left_bytes > MAX_LEFT_BYTES:
        findings.misses.append(f"a batch left {findings.left_bytes} bytes behind, the bound is {MAX_LEFT_BYTES}")
    if findings.growth_bytes > MAX_GROWTH_BYTES:
        findings.misses.append(f"decoding left {findings.growth_bytes} bytes resident, the bound is {MAX_GROWTH_BYTES}")
    return findings


def main() -> int:
    """Throw frames, print what came of them; 1 where the decoder failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the shortest frame of every kind of error text")
    args = parser.parse_args()
    started = time.monotonic()
    findings = fuzz(args.messages, args.seed, show=True)
    seconds = time.monotonic() - started
    report(findings, seconds)
    if args.keep:
        for number, frame in enumerate(findings.signatures.values()):
            (args.keep / f"{number:03}.bin").write_bytes(frame)
    return bool(findings.misses)


def report(findings: Findings, seconds: float) -> None:
    """The summary on standard output."""
    total = findings.outcomes.total()
    lines = [f"{total:,} messages in {seconds:.0f} s, {total / seconds:,.0f} messages/s"]
    for outcome, count in findings.outcomes.most_common():
        lines.append(f"  {'accepted' if outcome.isupper() else 'refused'}  {outcome:<16} {count:>9,}")
    lines += [
        f"kinds of refusal, by text: {len(findings.signatures)}",
        f"peak for one message {findings.peak_bytes:,} bytes (a header of {findings.peak_frame_bytes:,}); "
        f"bound {MAX_PEAK_BYTES:,}",
        f"slowest message {findings.slowest_s * 1e3:.0f} ms of processor time; bound {MAX_CPU_S * 1e3:.0f}",
        f"most left behind by {_BATCH} messages {findings.left_bytes:,} bytes; bound {MAX_LEFT_BYTES:,}",
        f"resident memory left behind by all {findings.growth_bytes:,} bytes; bound {MAX_GROWTH_BYTES:,}",
        *(f"MISS {miss}" for miss in findings.misses[:20]),
        f"{len(findings.misses)} misses" if findings.misses else "no miss",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
