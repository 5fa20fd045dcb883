"""`summary.json` of a profile: what was measured and what follows from it. docs/profile.md describes its fields."""

import json
from dataclasses import dataclass
from pathlib import Path

from penstock.telemetry.profile import typed_json
from penstock.telemetry.profile.capacities import Capacity, achieved, capacities
from penstock.telemetry.profile.measurements import SCHEMA_VERSION, Measurements
from penstock.telemetry.profile.next_step import NextStep, advise
from penstock.telemetry.profile.prediction import Prediction, cost_per_million, predict
from penstock.telemetry.profile.verdict import Verdict, judge

SUMMARY, TEXT, PAGE = "summary.json", "report.txt", "report.html"
"""What a profile's folder holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSummary:
    """A profile. Within a schema version fields are added and never change their meaning."""

    schema_version: int = SCHEMA_VERSION
    verdict: Verdict
    next_step: NextStep
    capacities: tuple[Capacity, ...]
    """e·P, e·W, H, T, as far as they were measured."""
    achieved: Capacity | None
    """By all together."""
    prediction: Prediction | None
    cost_per_million: float | None
    """Of a million images trained on, as measured, in the currency of the prices; None without prices."""
    measurements: Measurements


def analyse(measurements: Measurements) -> ProfileSummary:
    """What follows from the measurements."""
    parts, reached = capacities(measurements), achieved(measurements)
    verdict = judge(measurements, parts, reached)
    prediction = predict(measurements, parts, reached)
    num_producers = len(measurements.makers)
    return ProfileSummary(
        verdict=verdict,
        next_step=advise(measurements, parts, reached, verdict, prediction),
        capacities=parts,
        achieved=reached,
        prediction=prediction,
        cost_per_million=cost_per_million(measurements, num_producers, reached.images_per_s) if reached else None,
        measurements=measurements,
    )


def read_summary(path: Path) -> ProfileSummary:
    """The summary in a profile's folder, or in a file.

    Raises:
        ValueError: it is no profile's summary, or of another schema version; the text says which and where.
        OSError: it cannot be read.
    """
    file = path / SUMMARY if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(values, dict) or "measurements" not in values:
        raise ValueError(f"{file}: not a profile's summary (`penstock profile --out DIR` writes one)")
    if values.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"{file}: schema_version must be {SCHEMA_VERSION}, got {values.get('schema_version')!r}")
    try:
        return typed_json.read(ProfileSummary, values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
