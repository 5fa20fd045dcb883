"""What a run did, as `summary.json` and as the box that ends it: a verdict, its evidence, what to do next.

The verdict uses the share of its time that the trainer waited for images, and nothing else, because that is
what a run can know without an ablation: a trainer that waits is held back by the producers; one that never
waits is itself the limit, because buffers are bounded and so the producers wait for it. How fast either side
could go alone is not known, nor whether it waited for the wire or its host: `penstock profile` measures that, and
calls the sides by the same names (telemetry/profile/verdict.py).
"""

import dataclasses
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box as rich_box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

SCHEMA_VERSION = 1

STARVED_FRACTION = 0.05
"""A trainer that waits for at least this share of its time is bounded by the producers."""
FED_FRACTION = 0.01
"""One that waits for at most this share is bounded by itself; between the two the sides are balanced."""
MIN_STEPS = 50
"""With fewer steps than these the start of the run weighs too much for a verdict."""
BOX_WIDTH = 96
"""Columns of the box where the terminal has as many."""
MAX_NAMED = 1000
"""Concepts that the summary names."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Knn:
    """Accuracy of weighted cosine kNN on real held-out handwriting, 0 to 1; None where not measured."""

    before: float | None
    """The encoder before training, at random."""
    after: float | None
    """The encoder after training, on rendered test scans."""
    raw_scans_after: float | None
    """The same on the test scans merely enlarged, which no renderer has touched."""
    pixels: float | None
    """Mean-subtracted pixels in the encoder's place: the floor."""
    k: int
    """How many neighbours vote."""
    temperature: float
    """Softness of their weights, exp(cosine / temperature)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FilteredConcept:
    """What the mismatch filter did to the images of one concept."""

    made: int
    rejected: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Filtered:
    """What the mismatch filter did to a run's images."""

    made: int
    """Images that were made and scored."""
    rejected: int
    """Images of them that were not kept."""
    unsatisfied: int
    """Images that were rejected and kept nevertheless, because all candidates of their group were made."""
    by_concept: dict[str, FilteredConcept]
    """The largest share of rejected images first, at most MAX_NAMED; `(none)` is of prompts without a concept."""
    hardest_prompts: dict[str, int]
    """Rejected images of the prompts that had most of them."""

    @classmethod
    def read(cls, values: dict[str, Any]) -> "Filtered":
        """From plain values. Raises KeyError or TypeError where keys are missing or unknown."""
        by_concept = {name: FilteredConcept(**counts) for name, counts in values["by_concept"].items()}
        return cls(**{**values, "by_concept": by_concept})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ConceptGroups:
    """How many groups of each concept were trained on; one that was used again counts once."""

    groups: dict[str, int]
    """By concept, the commonest first; at most MAX_NAMED of them, and those of no group too."""
    other_concepts: int
    """Concepts that are not named, each as common as the last that is, or rarer."""
    other_groups: int
    """Groups of all these."""
    no_concept: int
    """Groups whose prompts have none."""

    @classmethod
    def of(cls, names: Sequence[str], counts: Sequence[int]) -> "ConceptGroups":
        """From the names of C concepts and their counts: C of them, and last that of no concept."""
        *by_concept, no_concept = counts
        ordered = sorted(zip(names, by_concept, strict=True), key=lambda pair: -pair[1])
        named, others = ordered[:MAX_NAMED], ordered[MAX_NAMED:]
        return cls(
            groups=dict(named),
            other_concepts=len(others),
            other_groups=sum(count for _, count in others),
            no_concept=no_concept,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The figures of one run; its fields are the keys of `summary.json`."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    seconds: float
    """Wall time from the start of the trainer to its end, s."""
    producers: int
    """The most producers that were connected at one time."""
    world_size: int
    steps: int
    images_generated: int
    """Images that reached a rank and were accepted."""
    images_trained: int
    """Images in all batches of all ranks; an image used again counts again."""
    reuse_factor: float
    """Uses per image."""
    groups_by_uses: tuple[int, ...]
    """The histogram of reuse: how many groups have been used u times, at place u."""
    producer_images_per_s: float
    trainer_images_per_s: float
    data_wait_fraction: float
    """Share of the training loop's time spent waiting for images, 0 to 1."""
    bytes_received: int
    messages_rejected: int
    """Messages from producers that were dropped; the log says why and whose."""
    tickets_expired: int
    """Times that a ticket was taken from a producer that did not name it, or took far too long."""
    tickets_hedged: int
    """Late tickets that a second producer was given too."""
    tickets_quarantined: int
    """Tickets that no producer could make; the ledger names their stand-ins."""
    image_bytes_written: int
    """Bytes of image files in the run folder, the one picture and trackers' files apart: 0, or something is wrong."""
    knn: Knn
    objective: str = "stablerep"
    """What was optimised."""
    steps_skipped: int = 0
    """Steps that changed nothing, as their gradients were no finite numbers."""
    rankme: float | None = None
    """RankMe of the features of validation scans at the last look during training, from 1 (collapse) to the encoder's
    width; None where there was no look."""
    concepts: ConceptGroups | None = None
    """The histogram of the concepts that were trained on; None where prompts have no concepts."""
    filter: Filtered | None = None
    """What the mismatch filter did; None where there was none."""

    def write(self, path: Path) -> None:
        """Write the summary as JSON, whole or not at all.

        Raises:
            ValueError: a figure is NaN or infinite.
            OSError: `path` cannot be written.
        """
        text = json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"
        unfinished = path.with_name(path.name + ".tmp")
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)

    @classmethod
    def read(cls, path: Path) -> "Summary":
        """Read what `write` wrote.

        Raises:
            ValueError: not JSON, or of another schema version.
            KeyError, TypeError: keys are missing or unknown.
        """
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"schema_version must be {SCHEMA_VERSION}, got {values.get('schema_version')!r}")
        by_uses = tuple(values["groups_by_uses"])
        concepts = ConceptGroups(**values["concepts"]) if values["concepts"] is not None else None
        filtered = Filtered.read(values["filter"]) if values["filter"] is not None else None
        read = {"groups_by_uses": by_uses, "knn": Knn(**values["knn"]), "concepts": concepts, "filter": filtered}
        return cls(**{**values, **read})


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What bounded a run."""

    side: str
    """`producers`, `trainer`, `balanced` or `not enough data`."""
    evidence: str
    next_step: str


def judge(summary: Summary) -> Verdict:
    """Say which side bounded the run, on what evidence, and what to try."""
    waited = summary.data_wait_fraction
    share = f"The trainer waited {waited:.1%} of its time for images"
    if summary.steps < MIN_STEPS:
        evidence = f"{summary.steps} steps in {summary.seconds:.0f} s; a verdict needs at least {MIN_STEPS} steps."
        return Verdict("not enough data", evidence, "Run longer: raise --max-steps.")
    if waited >= STARVED_FRACTION:
        evidence = f"{share}; the producers made {_rate(summary.producer_images_per_s)}."
        step = "Add producers on idle cores or devices, or let images be used more often (--reservoir.policy adaptive)"
        if waited < 1:
            fed_rate = summary.trainer_images_per_s / (1 - waited)
            step += f": at most {1 / (1 - waited):.1f} times as fast, {_rate(fed_rate)} trained"
        return Verdict("producers", evidence, f"{step}.")
    if waited <= FED_FRACTION:
        step = "Give the trainer a faster device or more ranks; more producers will not help."
        if summary.reuse_factor >= 2:
            step += " A lower reuse factor, for fresher images, may cost no time."
        return Verdict("trainer", f"{share}: they were there when it asked.", step)
    step = "To go faster, add to both sides; `penstock profile` says how much of each."
    return Verdict("balanced", f"{share}: neither side waits much for the other.", step)


def box(summary: Summary, width: int = BOX_WIDTH) -> str:
    """Draw the summary as a box of text, `width` characters wide, without colour."""
    verdict = judge(summary)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    made, trained = summary.images_generated, summary.images_trained
    on_disk = f"{summary.image_bytes_written / 1e3:,.0f} kB" if summary.image_bytes_written else "nothing"
    ranks = _count(summary.world_size, "rank")
    table.add_row("Run", f"{summary.run_id}: {summary.steps} steps in {summary.seconds:.0f} s, {ranks}")
    producers = _count(summary.producers, "producer")
    table.add_row("Made", f"{made:,} images by {producers}, {_rate(summary.producer_images_per_s)}")
    if summary.filter:
        table.add_row("Filtered", _filtered(summary.filter))
    table.add_row("Moved", f"{summary.bytes_received / 1e6:,.1f} MB to the trainer; image files on disk: {on_disk}")
    table.add_row(
        "Trained",
        f"by {summary.objective} on {trained:,} images, {_rate(summary.trainer_images_per_s)}; {_reuse(summary)}",
    )
    table.add_row("Learned", _learned(summary.knn))
    if faults := _faults(summary):
        table.add_row("Faults", faults)
    table.add_row()
    table.add_row("Question", "Which side bounded the run?")
    table.add_row("Verdict", _headline(verdict.side))
    table.add_row("Evidence", verdict.evidence)
    table.add_row("Next", verdict.next_step)
    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(Panel(table, title="penstock", title_align="left", box=rich_box.ROUNDED, padding=(0, 1)))
    return text.getvalue().rstrip("\n")


def _headline(side: str) -> str:
    return {
        "producers": "PRODUCER-BOUND: the trainer could take more images than were made.",
        "trainer": "TRAINER-BOUND: the images were always there.",
        "balanced": "BALANCED: both sides at about the same rate.",
        "not enough data": "NOT ENOUGH DATA for a verdict.",
    }[side]


def _reuse(summary: Summary) -> str:
    """Uses per image, and how they are spread over the groups where they are not all alike."""
    text = f"each image used {summary.reuse_factor:.1f} times"
    used = [uses for uses, count in enumerate(summary.groups_by_uses) if count]
    if len(used) < 2:
        return text
    total, seen, median = sum(summary.groups_by_uses), 0, 0
    for median, count in enumerate(summary.groups_by_uses):  # noqa: B007 - the place is what is wanted
        seen += count
        if 2 * seen >= total:
            break
    return f"{text} (groups {used[0]} to {used[-1]} times, half of them at most {median})"


def _filtered(filtered: Filtered) -> str:
    """How many images were rejected, and of which concepts most and least."""
    text = f"{_share(filtered.rejected, filtered.made)} of {filtered.made:,} images rejected"
    hardest = list(filtered.by_concept.items())[:3]
    if len({_share(counts.rejected, counts.made) for counts in filtered.by_concept.values()}) > 1:
        named = (f"{name!r:.40} {_share(counts.rejected, counts.made)}" for name, counts in hardest)
        text += f", most of {', '.join(named)}"
    if filtered.unsatisfied:
        text += f"; {filtered.unsatisfied:,} kept below the threshold for lack of better ones"
    if filtered.unsatisfied == filtered.made - filtered.rejected:
        text += ": no image passes, so lower --filter.min-score"
    return text


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _learned(knn: Knn) -> str:
    if knn.after is None:
        return "kNN on held-out handwriting was not measured"
    parts = [f"kNN on held-out handwriting {_percent(knn.before)} → {_percent(knn.after)}"]
    if knn.raw_scans_after is not None:
        parts.append(f"untouched scans {_percent(knn.raw_scans_after)}")
    if knn.pixels is not None:
        place = "below" if knn.after < knn.pixels else "above"
        parts.append(f"{place} raw pixels {_percent(knn.pixels)}")
    return f"{', '.join(parts)} (k {knn.k}, T {knn.temperature:g})"


def _faults(summary: Summary) -> str:
    """What went wrong and was mended; empty where nothing did."""
    counts = {
        "ticket asked for again": summary.tickets_expired,
        "late ticket asked for twice": summary.tickets_hedged,
        "ticket replaced by a stand-in": summary.tickets_quarantined,
        "message refused": summary.messages_rejected,
    }
    return ", ".join(f"{number:,} × {what}" for what, number in counts.items() if number)


def _percent(fraction: float | None) -> str:
    return "?" if fraction is None else f"{fraction:.1%}"


def _rate(images_per_s: float) -> str:
    return f"{images_per_s:,.0f} images/s" if images_per_s >= 10 else f"{images_per_s:.1f} images/s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
