from pathlib import Path

import pytest

from penstock.deploy.cli import dispatch
from penstock.protocol.errors import ConfigError
from penstock.telemetry.profile import typed_json
from penstock.telemetry.profile.summary import analyse
from tests.telemetry.profile.measured import measured, rate


def profile(folder: Path, **changes: object) -> str:
    folder.mkdir()
    typed_json.write(folder / "summary.json", analyse(measured(**changes)))
    return str(folder)


def test_a_regression_is_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, same = profile(tmp_path / "a"), profile(tmp_path / "b")
    slower = profile(tmp_path / "c", trainer=rate(930.0))
    assert dispatch(["profile", "compare", base, same]) == 0
    assert dispatch(["profile", "compare", base, slower]) == 1
    assert "Regression: T trainer fell by more than 5%." in capsys.readouterr().out
    assert dispatch(["profile", "compare", base, slower, "--tolerance", "0.1"]) == 0
    assert dispatch(["profile", "compare", slower, base]) == 0


def test_what_is_no_longer_measured_is_no_success(tmp_path: Path) -> None:
    base, lost = profile(tmp_path / "a"), profile(tmp_path / "b", host=None)
    assert dispatch(["profile", "compare", base, lost]) == 1
    empty = {"fleet": None, "wire": None, "host": None, "trainer": None, "together": None}
    assert dispatch(["profile", "compare", profile(tmp_path / "c", **empty), lost]) == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["A", "A", "--tolerance", "1.5"], r"--tolerance must be in \[0, 1\), got 1.5"),
        (["A"], r"the following arguments are required: B \(see penstock profile compare --help\)"),
        (["A", "none"], r"none: No such file or directory \(`penstock profile --out DIR` writes it\)"),
        (["A", "a.json"], r"a.json: not a profile's summary"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    profile(Path("A"))
    Path("a.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"^{error}"):
        dispatch(["profile", "compare", *arguments])


def test_a_file_from_elsewhere_moves_no_terminals_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = profile(tmp_path / "a")
    strange = profile(tmp_path / "b", environment={"machine": "\x1b[2Jx86_64"})
    assert dispatch(["profile", "compare", base, strange]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"\x1b[2Jx86_64" in shown
