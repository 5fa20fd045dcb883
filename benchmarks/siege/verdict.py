"""What a siege must not have done, check by check, from what was measured. Every check can fail."""

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MIN_RATIO = 0.95
"""Least share of its quiet throughput that the honest fleet must keep."""
MIN_CONNECTIONS = 300
MAX_MORE_MB = 64.0
"""Most memory that a siege may cost the rank."""
MAX_MORE_DESCRIPTORS = 2
"""Most files that may still be open some seconds after a siege."""
MIN_FLOOD = 1000
"""Messages of a siege's flooder, those that only its own queue took among them: that the rank has called it a flood,
REASONS see to."""


def _message(who: str, word: str) -> str:
    """The line of a message that was refused, however often by then."""
    return rf"refused a message of {who}( \(\d+ times\))?: {word}: "


_BOMBS = ("nesting", "too_long", "truncated", "malformed", "trailing_bytes", "extension_type", "duplicate_key")
_LIES = ("shape", "size", "frame_count", "checksum", "blank", "stale", "life", "sequence")
LINES: Mapping[str, str] = {
    "no key": r"refused 127\.0\.0\.1.*: it has no key",
    "a wrong key": r"refused 127\.0\.0\.1.*: its key .* is not in .*allowed",
    "no ZeroMQ": r"refused 127\.0\.0\.1.*: it speaks no ZeroMQ",
    "an unfinished handshake": r"refused 127\.0\.0\.1.*: it did not finish the handshake within 2 s",
    "a revoked key": r"leaver-0 is out: its key was revoked",
    "a JPEG bomb": _message("bomber", "jpeg"),
    "a flood": r"its messages were refused within 5 s; nothing with the key of flooder-0 is heard for \d+ s",
    "a flooder that comes again": r"nothing with the key of flooder-0 is heard for \d+ s more",
    **{f"a bomb: {word}": _message("(unknown with the key of )?bomber", word) for word in _BOMBS},
    **{f"a lie: {word}": _message("byzantine", word) for word in _LIES},
}
"""What must stand in the rank's log once it is besieged, and not before: what is refused, and a pattern of its line."""
REASONS = ("no_key", "unknown_key", "no_zeromq", "slow_handshake", "nonsense", "excluded", "jpeg", *_BOMBS, *_LIES)
"""Of the refusals that the metrics must count in every siege."""


@dataclass(frozen=True, slots=True)
class Check:
    """One promise."""

    name: str
    bar: str
    seen: str
    is_met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Some seconds of the run."""

    images_per_s: float
    """That the honest producers made and the rank trained on."""
    peak_mb: float
    peak_descriptors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Siege:
    """One siege."""

    window: Window
    seconds: float
    """That the attackers were there."""
    refused: Mapping[str, int]
    """Messages and connections, by reason, by the rank's metrics."""
    strangers: Mapping[str, Mapping[str, int]]
    """As `strangers.Seen` says."""
    together: int
    """Strangers at a time."""
    insiders: Mapping[str, Mapping[str, Mapping[str, int]]]
    """By role, `sent` and `refused` as `insiders.Deeds` says."""
    leaver_before: int
    """Groups of the producer that was then revoked."""
    leaver_late: int
    """Groups of it that came later than the grace after that."""
    leaver_said: str
    """Its last line."""
    descriptors_before: int
    descriptors_after: int
    metrics_strangers: int
    """Status of an answer to a reader of the metrics without their token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that was measured."""

    quiet: Sequence[Window]
    """One more than sieges: before, between and after them."""
    sieges: Sequence[Siege]
    log_before: str
    """Of the rank, until the first siege."""
    log: str
    """Of the rank, from then on."""
    honest_logs: Mapping[str, str]
    ledger: Mapping[str, Any]
    """As `Besieged.spoilt` says."""
    honest: Sequence[str]
    lines: Mapping[str, str] = field(default_factory=lambda: LINES)


def ratios(measured: Measured) -> list[float]:
    """The honest throughput of each siege, as a share of that of the quiet windows before and after it."""
    rates = [window.images_per_s for window in measured.quiet]
    return [
        siege.window.images_per_s / ((before + after) / 2)
        for siege, before, after in zip(measured.sieges, rates, rates[1:], strict=False)
    ]


def judge(measured: Measured) -> list[Check]:
    """Every promise, and whether it was kept."""
    return [
        *_throughput(measured),
        *_was_besieged(measured),
        *_log(measured),
        *_revocation(measured),
        *_resources(measured),
        *_ledger(measured),
    ]


def _throughput(measured: Measured) -> Iterator[Check]:
    ratio = statistics.median(ratios(measured))
    yield Check("honest throughput under siege", f">= {MIN_RATIO:.0%} of quiet", f"{ratio:.1%}", ratio >= MIN_RATIO)


def _was_besieged(measured: Measured) -> Iterator[Check]:
    """A siege that did not take place proves nothing."""
    together = min(siege.together for siege in measured.sieges)
    yield Check("strangers at a time", f">= {MIN_CONNECTIONS}", f"{together}", together >= MIN_CONNECTIONS)
    let_in = sum(sum(siege.strangers["let_in"].values()) for siege in measured.sieges)
    yield Check("strangers that were let in", "0", f"{let_in}", let_in == 0)
    idle = sorted(
        kind
        for siege in measured.sieges
        for kind, number in siege.strangers["opened"].items()
        if siege.strangers["hung_up"].get(kind, 0) < number / 2
    )
    yield Check("strangers that were not hung up on", "none", ", ".join(idle) or "none", not idle)
    flood = min(siege.insiders["flooder"]["sent"].get("flood", 0) for siege in measured.sieges)
    yield Check("messages of the flood", f">= {MIN_FLOOD:,}", f"{flood:,}", flood >= MIN_FLOOD)
    for role in ("bomber", "byzantine"):
        kinds = [len(siege.insiders[role]["sent"]) for siege in measured.sieges]
        yield Check(f"kinds of messages of the {role}", ">= 11", f"{min(kinds)}", min(kinds) >= 11)
    lacking = sorted({word for siege in measured.sieges for word in REASONS if siege.refused.get(word, 0) < 1})
    yield Check("reasons that the metrics did not count", "none", ", ".join(lacking) or "none", not lacking)
    statuses = sorted({siege.metrics_strangers for siege in measured.sieges})
    yield Check("metrics without their token", "401", f"{statuses}", statuses == [401])


def _log(measured: Measured) -> Iterator[Check]:
    silent = [what for what, line in measured.lines.items() if not re.search(line, measured.log)]
    yield Check("refusals that the log does not name", "none", ", ".join(silent) or "none", not silent)
    early = [what for what, line in measured.lines.items() if re.search(line, measured.log_before)]
    yield Check("refusals named before there were any", "none", ", ".join(early) or "none", not early)
    num_lines = len(measured.log.splitlines())
    most = 300 * len(measured.sieges)
    yield Check("lines in the log", f"<= {most}", f"{num_lines}", num_lines <= most)
    is_whole = "Traceback" not in measured.log
    yield Check("defects in the log", "none", "none" if is_whole else "a traceback", is_whole)
    blamed = [name for name, text in measured.honest_logs.items() if "refuse" in text or "Traceback" in text]
    yield Check("honest producers that were refused anything", "none", ", ".join(blamed) or "none", not blamed)


def _revocation(measured: Measured) -> Iterator[Check]:
    before = min(siege.leaver_before for siege in measured.sieges)
    yield Check("groups of a producer before it is revoked", ">= 1", f"{before}", before >= 1)
    late = sum(siege.leaver_late for siege in measured.sieges)
    yield Check("groups of it afterwards", "0", f"{late}", late == 0)
    silent = [siege.leaver_said for siege in measured.sieges if "key" not in siege.leaver_said]
    yield Check("revoked producers that do not say why", "none", "; ".join(silent) or "none", not silent)


def _resources(measured: Measured) -> Iterator[Check]:
    quiet = measured.quiet[0].peak_mb
    most = max(siege.window.peak_mb for siege in measured.sieges) - quiet
    yield Check("memory of the rank beyond quiet", f"<= {MAX_MORE_MB:.0f} MB", f"{most:+.0f} MB", most <= MAX_MORE_MB)
    left = max(siege.descriptors_after - siege.descriptors_before for siege in measured.sieges)
    peak = max(siege.window.peak_descriptors - siege.descriptors_before for siege in measured.sieges)
    yield Check("descriptors of the rank at most", ">= 100 more", f"{peak:+d}", peak >= 100)
    is_met = left <= MAX_MORE_DESCRIPTORS
    yield Check("descriptors of the rank afterwards", f"<= {MAX_MORE_DESCRIPTORS} more", f"{left:+d}", is_met)


def _ledger(measured: Measured) -> Iterator[Check]:
    ledger = measured.ledger
    for what in ("twice", "wrong_pixels", "quarantined"):
        yield Check(f"groups trained on: {what.replace('_', ' ')}", "0", f"{ledger[what]}", ledger[what] == 0)
    makers = (name for name in ledger["makers"] if not name.startswith("leaver-"))
    foreign = sorted(name for name in makers if name not in measured.honest)
    yield Check("groups trained on of an attacker", "none", ", ".join(foreign) or "none", not foreign)
