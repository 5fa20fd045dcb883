"""What a profile takes, and what it refuses before anything is measured."""

from pathlib import Path

import pytest

from penstock.consumer.profile_run.settings import ProfileConfig
from penstock.consumer.profiled import check_out, forgetting
from penstock.protocol.errors import ConfigError, RunError


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seconds", 0.5, "seconds must be >= 1, got 0.5"),
        ("min_producers", 0, "min_producers must be >= 1, got 0"),
        ("paced_images_per_s", -1.0, "paced_images_per_s must be >= 0, got -1.0"),
        ("producer_price_per_hour", float("inf"), "producer_price_per_hour must be >= 0, got inf"),
        ("resume", True, "resume must be left out of a profile"),
        ("dashboard", "8000", "dashboard must be left out of a profile"),
    ],
)
def test_bad_settings_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        ProfileConfig(**{field: value})  # type: ignore[arg-type]


def test_the_settings_of_a_run_are_taken_as_they_are() -> None:
    assert ProfileConfig(run_dir=Path("runs/mine"), metrics="9100", trace="trace.json").out == Path("runs/profile")


def test_a_report_replaces_a_report_where_that_is_asked_for_and_never_what_was_trained(tmp_path: Path) -> None:
    check_out(tmp_path / "new", overwrite=False)
    (tmp_path / "run.lock").touch()
    check_out(tmp_path, overwrite=False)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match="is not empty; pass --overwrite, or another --out"):
        check_out(tmp_path, overwrite=False)
    check_out(tmp_path, overwrite=True)
    (tmp_path / "encoder").mkdir()
    with pytest.raises(RunError, match=r"holds a run \(encoder\), which no profile replaces; choose another --out"):
        check_out(tmp_path, overwrite=True)


def test_a_file_is_no_reports_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be a report's folder: Not a directory; choose another --out"):
        check_out(tmp_path / "file", overwrite=True)


@pytest.mark.parametrize(
    ("left", "error", "stays"),
    [
        (["run.json", "run.lock"], KeyboardInterrupt, ["run.lock"]),
        (["run.json", "producer-0.log"], KeyboardInterrupt, ["producer-0.log", "run.json"]),
        (["run.json", "run.lock"], None, ["run.json", "run.lock"]),
    ],
)
def test_one_that_ends_early_can_be_begun_again(
    tmp_path: Path, left: list[str], error: type[BaseException] | None, stays: list[str]
) -> None:
    for name in left:
        (tmp_path / name).touch()
    forgetting(tmp_path)(error, None, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == stays
