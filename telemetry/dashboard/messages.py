"""What a page is told, as JSON: a run's figures, its curves, its rates so far, and groups.

All is bounded, whatever the run has: here a fleet of thousands, a prompt of a page and a log that floods, and curves
where the view is made.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from penstock.telemetry.dashboard.image_sources import image_sources
from penstock.telemetry.dashboard.rate_history import RatePoint
from penstock.telemetry.run_view import GroupView, ProducerView, RunView

MAX_PRODUCERS = 200
"""Rows of the fleet; those in trouble come first."""
MAX_EVENTS = 50
MAX_PROMPT_CHARS = 600
MAX_TEXT_CHARS = 400
_URGENCY = ("gone", "stalled", "suspect", "draining", "warming", "ready")
_APART = {"events", "groups", "loss", "knn", "rankme", "producers"}
"""Fields of a view that are told in another form, or by another message."""


def figures(view: RunView) -> str:
    """All but curves and groups."""
    told = {name: _plain(getattr(view, name)) for name in RunView.__dataclass_fields__ if name not in _APART}
    by_urgency = sorted(view.producers, key=_urgency)  # those that are alike stay in the order of their names
    told["producers"] = _plain(by_urgency[:MAX_PRODUCERS])
    told["producers_left_out"] = max(0, len(view.producers) - MAX_PRODUCERS)
    states = [producer.state for producer in view.producers]
    told["producers_by_state"] = {state: states.count(state) for state in _URGENCY if state in states}
    events = [replace(event, text=_short(event.text, MAX_TEXT_CHARS)) for event in view.events[-MAX_EVENTS:]]
    told["events"] = _plain(events)
    return _dumps(told)


def learning(view: RunView) -> str:
    """The curves over the steps: (step, value) pairs."""
    return _dumps({name: _plain(getattr(view, name)) for name in ("loss", "knn", "rankme")})


def rates(points: Sequence[RatePoint]) -> str:
    """The rates so far, a list for each; `seconds` since the trainer was started."""
    return _dumps(
        {
            "seconds": [round(point.seconds, 1) for point in points],
            "made_per_s": [_rounded(point.made_per_s) for point in points],
            "trained_per_s": [_rounded(point.trained_per_s) for point in points],
            "data_wait": [round(point.data_wait, 4) for point in points],
        }
    )


def group(shown: GroupView) -> str:
    """A group with its images."""
    count, height, width, _ = shown.shape or shown.images.shape
    return _dumps(
        {
            "index": shown.index,
            "prompt": _short(shown.prompt, MAX_PROMPT_CHARS),
            "producer": shown.producer,
            "num_images": count,
            "height": height,
            "width": width,
            "images": image_sources(shown.images),
        }
    )


def _plain(value: Any) -> Any:
    """Dataclasses, sequences and mappings as JSON has them; `dataclasses.asdict` would count a Counter anew."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return _rounded(value) if isinstance(value, float) else value


def _urgency(producer: ProducerView) -> int:
    return _URGENCY.index(producer.state) if producer.state in _URGENCY else len(_URGENCY)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _rounded(value: float) -> float | None:
    """Seven digits are more than anybody reads, but for the time of day; None where it is no number: JSON has none."""
    if not math.isfinite(value):
        return None
    return round(value, 3) if abs(value) >= 1e6 else float(f"{value:.7g}")


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
