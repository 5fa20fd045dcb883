import json
from pathlib import Path

import pytest

from penstock.telemetry.profile import typed_json
from penstock.telemetry.profile.measurements import Measurements, Rate
from tests.telemetry.profile.measured import measured


def test_measurements_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "measurements.json"
    for made in (measured(), measured(wire=None, together=None, producers=(), ranks=())):
        typed_json.write(path, made)
        assert typed_json.read(Measurements, json.loads(path.read_text())) == made


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (("wire", "seconds"), "long", "wire.seconds: must be float, got str"),
        (("wire", "seconds"), True, "wire.seconds: must be float, got bool"),
        (("wire", "seconds"), float("inf"), "wire.seconds: must be finite, got inf"),
        (("producers", 1, "name"), 7, r"producers\[1\].name: must be str, got int"),
        (("ranks", 0, "stages", "step"), None, r"ranks\[0\].stages.step: must be dict, got NoneType"),
        (("together",), [], "together: must be dict, got list"),
    ],
)
def test_a_wrong_field_is_named_with_its_place(
    tmp_path: Path, place: tuple[str | int, ...], value: object, error: str
) -> None:
    path = tmp_path / "measurements.json"
    typed_json.write(path, measured())
    values = json.loads(path.read_text())
    within = values
    for step in place[:-1]:
        within = within[step]
    within[place[-1]] = value
    with pytest.raises(ValueError, match=f"^{error}$"):
        typed_json.read(Measurements, values)


def test_what_a_later_version_has_added_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "measurements.json"
    typed_json.write(path, measured())
    values = json.loads(path.read_text())
    values["producers"][1]["colour"] = "red"
    values["weather"] = {"sky": [1, None]}
    assert typed_json.read(Measurements, values) == measured()


def test_a_missing_field_is_named_unless_it_has_a_default() -> None:
    assert typed_json.read(Rate, {"images": 3, "seconds": 2}) == Rate(images=3, seconds=2.0)
    with pytest.raises(ValueError, match=r"^seconds: missing$"):
        typed_json.read(Rate, {"images": 3})
    with pytest.raises(ValueError, match=r"^the file: must be dict, got list$"):
        typed_json.read(Rate, [])


def test_no_figure_is_written_that_json_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        typed_json.write(tmp_path / "rate.json", Rate(images=1, seconds=float("nan")))
    assert list(tmp_path.iterdir()) == []


def test_a_use_of_some_of_a_groups_images_counts_for_as_many() -> None:
    # 10 images made, 6 of them in each of 5 uses: three images trained for each made.
    made = measured(images_per_group=10, images_per_use=6, max_reuse=5, groups_per_step=8)
    assert made.reuse == pytest.approx(3.0)
    assert made.images_per_step == 48
