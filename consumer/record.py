"""What a run tells of itself at its end, gathered over all its lives: part of a checkpoint."""

from dataclasses import asdict, dataclass, field
from typing import Any

from penstock.consumer.meter import Totals


@dataclass(slots=True)
class Record:
    """Curves and counts since the beginning of the run."""

    loss: list[tuple[int, float]] = field(default_factory=list)
    """(step, loss)."""
    knn: list[tuple[int, float]] = field(default_factory=list)
    """(step, accuracy on the validation scans)."""
    rankme: list[tuple[int, float]] = field(default_factory=list)
    """(step, RankMe of the validation scans' features)."""
    knn_before: float | None = None
    """Accuracy on the test scans before the first step."""
    steps_skipped: int = 0
    """Steps that changed nothing, as their gradients were no numbers."""
    hardest_prompts: list[tuple[str, int]] = field(default_factory=list)
    """(prompt, images rejected): those of which the filter has rejected most."""
    totals: Totals = field(default_factory=Totals)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Record":
        """From `to_json`. Raises TypeError or KeyError where that is not what it is."""
        curves = {name: [(int(step), float(y)) for step, y in value[name]] for name in ("loss", "knn", "rankme")}
        counts = {
            name: tuple(value["totals"][name]) for name in ("groups_by_uses", "groups_by_concept", "filter_counts")
        }
        totals = Totals(**{**value["totals"], **counts})
        hardest = [(str(prompt), int(rejected)) for prompt, rejected in value["hardest_prompts"]]
        return cls(**{**value, **curves, "totals": totals, "hardest_prompts": hardest})
