"""The file that other tools read, and a verdict that says no more than the figures do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.telemetry.summary import ConceptGroups, Filtered, FilteredConcept, Knn, Summary, box, judge


def test_the_file_has_exactly_the_published_keys(tmp_path: Path, make_summary: Callable[..., Summary]) -> None:
    path = tmp_path / "summary.json"
    make_summary().write(path)
    values = json.loads(path.read_text())
    published = """schema_version run_id seconds producers world_size steps images_generated images_trained
        reuse_factor groups_by_uses producer_images_per_s trainer_images_per_s data_wait_fraction bytes_received
        messages_rejected tickets_expired tickets_hedged tickets_quarantined
        image_bytes_written knn objective steps_skipped rankme concepts filter"""
    assert set(values) == set(published.split())
    assert set(values["knn"]) == {"before", "after", "raw_scans_after", "pixels", "k", "temperature"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_summary_reads_back_as_it_was(tmp_path: Path, make_summary: Callable[..., Summary]) -> None:
    make_summary().write(tmp_path / "summary.json")
    assert Summary.read(tmp_path / "summary.json") == make_summary()


def test_the_commonest_concepts_are_named_and_the_others_counted(
    tmp_path: Path, make_summary: Callable[..., Summary]
) -> None:
    names = [f"concept {number}" for number in range(1003)]
    concepts = ConceptGroups.of(names, [5, *range(1002), 7])
    assert list(concepts.groups.items())[:2] == [("concept 1002", 1001), ("concept 1001", 1000)]
    assert len(concepts.groups) == 1000
    assert (concepts.other_concepts, concepts.other_groups, concepts.no_concept) == (3, 0 + 1 + 2, 7)
    summary = make_summary(concepts=concepts)
    summary.write(tmp_path / "summary.json")
    assert Summary.read(tmp_path / "summary.json") == summary


def test_what_a_filter_did_reads_back_and_stands_in_the_box(
    tmp_path: Path, make_summary: Callable[..., Summary]
) -> None:
    concepts = {"nine": FilteredConcept(made=100, rejected=40), "one": FilteredConcept(made=900, rejected=60)}
    filtered = Filtered(made=1000, rejected=100, unsatisfied=3, by_concept=concepts, hardest_prompts={"a nine": 12})
    summary = make_summary(filter=filtered)
    summary.write(tmp_path / "summary.json")
    assert Summary.read(tmp_path / "summary.json") == summary
    assert "Filtered" not in box(make_summary())
    drawn = " ".join(box(summary).replace("│", " ").split())
    assert (
        "10.0% of 1,000 images rejected, most of 'nine' 40.0%, 'one' 6.7%; 3 kept below the threshold for lack of"
        in drawn
    )
    assert "lower --filter.min-score" not in drawn


def test_a_filter_that_accepts_nothing_says_what_to_do(make_summary: Callable[..., Summary]) -> None:
    concepts = {name: FilteredConcept(made=32, rejected=24) for name in ("nine", "one")}
    filtered = Filtered(made=64, rejected=48, unsatisfied=16, by_concept=concepts, hardest_prompts={"a nine": 24})
    drawn = " ".join(box(make_summary(filter=filtered)).replace("│", " ").split())
    assert "75.0% of 64 images rejected; 16 kept below the threshold" in drawn, "no concept lost most"
    assert "no image passes, so lower --filter.min-score" in drawn


def test_another_schema_version_is_refused(tmp_path: Path, make_summary: Callable[..., Summary]) -> None:
    make_summary(schema_version=2).write(tmp_path / "summary.json")
    with pytest.raises(ValueError, match="schema_version must be 1, got 2"):
        Summary.read(tmp_path / "summary.json")


def test_a_figure_that_is_not_a_number_is_not_written(tmp_path: Path, make_summary: Callable[..., Summary]) -> None:
    path = tmp_path / "summary.json"
    with pytest.raises(ValueError, match="JSON"):
        make_summary(reuse_factor=float("nan")).write(path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("steps", "waited", "side"),
    [
        (49, 0.5, "not enough data"),
        (50, 0.5, "producers"),
        (600, 0.05, "producers"),
        (600, 1.0, "producers"),
        (600, 0.049, "balanced"),
        (600, 0.011, "balanced"),
        (600, 0.01, "trainer"),
        (600, 0.0, "trainer"),
    ],
)
def test_the_verdict_follows_the_share_of_time_waited(
    steps: int, waited: float, side: str, make_summary: Callable[..., Summary]
) -> None:
    assert judge(make_summary(steps=steps, data_wait_fraction=waited)).side == side


def test_the_predicted_gain_is_that_of_no_wait_at_all(make_summary: Callable[..., Summary]) -> None:
    # 100 images/s while waiting half of the time: 200 images/s, twice as fast, if it never waited.
    verdict = judge(make_summary(data_wait_fraction=0.5, trainer_images_per_s=100.0))
    assert verdict.next_step.endswith("at most 2.0 times as fast, 200 images/s trained.")


def test_less_reuse_is_advised_only_where_there_is_reuse(make_summary: Callable[..., Summary]) -> None:
    assert "reuse" in judge(make_summary()).next_step
    assert "reuse" not in judge(make_summary(reuse_factor=1.0)).next_step


def test_the_box_is_straight_and_says_what_happened(make_summary: Callable[..., Summary]) -> None:
    drawn = box(make_summary(), width=80)
    lines = drawn.splitlines()
    assert {len(line) for line in lines} == {80}
    words = " ".join(drawn.replace("│", " ").split())
    for part in ("TRAINER-BOUND", "waited 0.4%", "14.7% → 88.5%", "above raw pixels 55.2%", "21.3 times"):
        assert part in words
    assert "\x1b" not in drawn


def test_the_box_says_how_reuse_is_spread_where_it_is(make_summary: Callable[..., Summary]) -> None:
    # By hand: of 10 groups the 5th in order of use has been used 3 times.
    shown = " ".join(box(make_summary(groups_by_uses=(1, 0, 2, 3, 0, 4))).replace("│", " ").split())
    assert "each image used 21.3 times (groups 0 to 5 times, half of them at most 3)" in shown
    assert "half of them" not in box(make_summary(groups_by_uses=(0, 0, 7)))


def test_the_box_admits_what_was_not_measured_or_not_learned(make_summary: Callable[..., Summary]) -> None:
    nothing = Knn(before=None, after=None, raw_scans_after=None, pixels=None, k=20, temperature=0.07)
    assert "not measured" in box(make_summary(knn=nothing))
    poor = Knn(before=0.1, after=0.2, raw_scans_after=0.2, pixels=0.5, k=20, temperature=0.07)
    assert "below raw pixels 50.0%" in " ".join(box(make_summary(knn=poor)).replace("│", " ").split())


def test_faults_stand_in_the_box_only_where_there_were_any(make_summary: Callable[..., Summary]) -> None:
    assert "Faults" not in box(make_summary())
    shown = box(make_summary(tickets_hedged=3, messages_rejected=1200))
    assert "Faults    3 × late ticket asked for twice, 1,200 × message refused" in shown
