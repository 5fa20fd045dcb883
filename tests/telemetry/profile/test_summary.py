"""The file that other tools read."""

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.telemetry.profile import typed_json
from penstock.telemetry.profile.report import write_report
from penstock.telemetry.profile.summary import analyse, read_summary
from tests.telemetry.profile.measured import measured

PUBLISHED: dict[str, str] = {
    "": "schema_version verdict next_step capacities achieved prediction cost_per_million measurements",
    "verdict": "kind sides headline evidence shortfall contradiction confidence because caveats",
    "next_step": "text gain images_per_s",
    "capacities.0": "side images_per_s half_width cores_busy",
    "achieved": "side images_per_s half_width cores_busy",
    "prediction": """producers images_per_s_each efficiency error ceiling_error ceiling ceiling_side knee
        producers_per_rank cheapest points""",
    "prediction.points.0": "producers images_per_s bound cost_per_million",
    "measurements": """schema_version run_id measured_at seconds command config_digest environment cores is_paced
        world_size groups_per_step images_per_group images_per_use policy min_reuse max_reuse producers ranks fleet wire
        host trainer together services left joined warmup_s overhead_share prices""",
    "measurements.fleet": "images seconds windows nbytes busy_share",
    "measurements.producers.0": """name device backend is_local alone_images_per_s together_images_per_s
        engine_images_per_s ready_s busy_share flop_share generates""",
    "measurements.ranks.0": "rank device images_trained images_arrived wait_s stages flops_per_step matrix_flops_per_s",
    "measurements.ranks.0.stages.step": "count seconds p50_s p95_s p99_s",
    "measurements.together": """trained arrived steps wait_share sampled_at_s queues groups_by_uses expired hedged
        quarantined rejects""",
    "measurements.together.queues.0": "name capacity filled",
    "measurements.services.0": "producer rank groups p50_s p95_s",
    "measurements.prices": "producer_per_hour trainer_per_hour",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a report. Drawing one takes a second."""
    made = tmp_path_factory.mktemp("profile")
    write_report(made, measured())
    return made


@pytest.fixture
def values(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return read


@pytest.mark.parametrize("place", PUBLISHED)
def test_the_file_has_exactly_the_published_keys(values: dict[str, Any], place: str) -> None:
    within: Any = values
    for step in filter(None, place.split(".")):
        within = within[int(step) if step.isdigit() else step]
    assert set(within) == set(PUBLISHED[place].split())


def test_the_published_keys_are_documented() -> None:
    documented = (Path(__file__).parents[3] / "docs" / "profile.md").read_text()
    for keys in PUBLISHED.values():
        assert [key for key in keys.split() if f"`{key}`" not in documented] == []


def test_a_report_is_three_files_and_its_summary_reads_back(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"summary.json", "report.txt", "report.html"}
    summary = read_summary(folder)
    assert read_summary(folder / "summary.json") == summary == analyse(measured())
    assert summary.verdict.headline in (folder / "report.txt").read_text()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "summary.json:1: not JSON"),
        ('{"schema_version": 1, "run_id": "demo"}', "not a profile's summary"),
        ('{"schema_version": 9, "measurements": {}}', "schema_version must be 1, got 9"),
        ('{"schema_version": 1, "measurements": {}}', "summary.json: verdict: missing"),
    ],
)
def test_another_file_is_refused_by_name(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ValueError, match=error):
        read_summary(tmp_path)


def test_a_verdict_of_another_kind_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    values["verdict"]["kind"] = "disk-bound"
    (tmp_path / "summary.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"verdict\.kind: must be one of producer-bound, .*, got 'disk-bound'"):
        read_summary(tmp_path)


def test_a_failed_write_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(OSError, match="summary"):
        typed_json.write(tmp_path / "summary.json", measured())
