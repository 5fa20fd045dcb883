"""What a run's ledgers say as a whole: how much came, from whom, and what it takes on the disk."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from penstock.consumer.ledger_file import open_ledger_files
from penstock.consumer.ledger_reader import LedgerReader
from penstock.protocol.tickets import Manifest


@dataclass(frozen=True, slots=True)
class ProducerShare:
    """What a producer has made, as one engine: one that came back as another is another line."""

    name: str
    manifest: Manifest
    num_groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSummary:
    """Counts over all ranks."""

    num_lives: int
    num_ranks: int
    """Ranks that have a ledger, of all lives."""
    steps: range
    num_groups: int
    """Global indices that have come."""
    num_arrivals: int
    """Groups as they came; more where a resume has asked for some again."""
    num_uses: int
    num_prompts: int
    """By `prompt_id`."""
    producers: tuple[ProducerShare, ...]
    """Those with most groups first."""
    concepts: tuple[tuple[str, int], ...]
    """Names with their groups, most first; those without a concept are left out."""
    num_quarantined: int
    num_scored: int
    """Candidates that a filter has scored."""
    num_rejected: int
    """Those of them that it did not take, or took only because the prompt had no better ones."""
    num_bytes: int
    """On the disk."""


def summarise(run_dir: Path, reader: LedgerReader) -> LedgerSummary:
    """Count.

    Args:
        run_dir: folder of the run.
        reader: of its ledgers.

    Raises RunError where a ledger cannot be read.
    """
    producers: Counter[tuple[str, str]] = Counter()
    manifests: dict[str, Manifest] = {}
    concepts: Counter[str] = Counter()
    prompts: set[int] = set()
    arrivals = uses = quarantined = scored = accepted = num_bytes = 0
    with ExitStack() as stack:
        files = open_ledger_files(run_dir, stack)
        for file in files:
            num_bytes += file.num_bytes()
            prompts.update(key for (key,) in file.rows("SELECT DISTINCT prompt_id FROM prompts"))
            uses += sum(len(used) for _, used in file.used_between(0, reader.steps.stop))
            ((here,),) = file.rows("SELECT count(*) FROM quarantined")
            quarantined += here
            for producer, num in file.rows("SELECT producer, count(*) FROM groups GROUP BY producer"):
                name, manifest = file.producer(producer)
                manifests[manifest.digest] = manifest
                producers[name, manifest.digest] += num
                arrivals += num
            named = "SELECT name, count(*) FROM groups JOIN concepts ON concepts.id = concept GROUP BY concept"
            concepts.update(dict(file.rows(named)))
            filtered = "SELECT recipe, count(*), sum(num_made), sum(num_unsatisfied) FROM groups WHERE num_made > 0"
            for recipe, num, made, unsatisfied in file.rows(f"{filtered} GROUP BY recipe"):
                scored += made
                accepted += num * file.recipe(recipe)["num_images"] - unsatisfied
    return LedgerSummary(
        num_lives=len({life.get("life") for life in reader.lives}),
        num_ranks=len(files),
        steps=reader.steps,
        num_groups=reader.num_groups,
        num_arrivals=arrivals,
        num_uses=uses,
        num_prompts=len(prompts),
        producers=tuple(ProducerShare(name, manifests[digest], num) for (name, digest), num in producers.most_common()),
        concepts=tuple(concepts.most_common()),
        num_quarantined=quarantined,
        num_scored=scored,
        num_rejected=scored - accepted,
        num_bytes=num_bytes,
    )
