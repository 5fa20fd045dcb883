"""`penstock replay`: which images, in which order, what is said of them, and the status."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from penstock.deploy import replay
from penstock.protocol.errors import ConfigError
from tests.deploy.recorded_run import RecordedGroup, RecordedLedger, paced_groups


@pytest.fixture
def groups() -> list[RecordedGroup]:
    return paced_groups(5)


def use(monkeypatch: pytest.MonkeyPatch, groups: Sequence[RecordedGroup]) -> None:
    ledger = RecordedLedger(groups, [[0, 1, 2], [4, 0]])
    monkeypatch.setattr(replay, "open_ledger", lambda run_dir: ledger)


def test_a_step_is_made_again_in_its_order_and_drawn(
    groups: list[RecordedGroup], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, groups)
    shown = []
    monkeypatch.setattr(
        "penstock.telemetry.group_sheet.draw_sheet",
        lambda title, subtitle, cells, is_wrong: (
            shown.append((title, cells, is_wrong)) or np.zeros((2, 2, 3), np.uint8)
        ),
    )
    out = tmp_path / "grid.png"
    assert replay.main([str(tmp_path), "--step", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2 of 2 groups match: 4 images, as the trainer had them",
        f"picture  {out}",
    ]
    ((title, cells, is_wrong),) = shown
    assert (title, is_wrong) == ("step 1", False)
    assert [cell.prompt for cell in cells] == [groups[4].recipe.prompt, groups[0].recipe.prompt]
    assert [cell.note for cell in cells] == ["group 4 · use 1", "group 0 · use 2"]
    assert [len(cell.images) for cell in cells] == [2, 2]


def test_a_checksum_that_differs_is_named_and_is_status_1(
    groups: list[RecordedGroup], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, [*groups[:2], replace(groups[2], crc32=groups[2].crc32 ^ 0x10), *groups[3:]])
    assert replay.main([str(tmp_path), "--step", "0", "--out", str(tmp_path / "grid.png")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"group 2 differs from its checksum {groups[2].crc32 ^ 0x10:08x}: {groups[2].recipe.prompt!r}"
    assert lines[1] == "2 of 3 groups match, 1 differ: 6 images"
    assert Image.open(tmp_path / "grid.png").size[0] > 300


def test_single_groups_come_whole(
    groups: list[RecordedGroup], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, groups)
    assert replay.main([str(tmp_path), "--index", "3", "--index", "1"]) == 0
    assert capsys.readouterr().out == "2 of 2 groups match: 6 images, as the trainer had them\n"


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--step", "7"], "--step 7 is not in the ledger; its steps are 0 to 1"),
        (["--index", "9"], "--index 9 is not in the ledger, which holds 5 groups"),
        (["--step", "0", "--out", "grid.bmp"], "--out grid.bmp: the name must end in .png"),
        (["--step", "0", "--out", "/nowhere/a.png"], "--out /nowhere/a.png: no such folder: /nowhere"),
        ([], "one of the arguments --step --index is required (see penstock replay --help)"),
        (["--step", "x"], "argument --step: invalid int value: 'x' (see penstock replay --help)"),
    ],
)
def test_mistakes_are_one_line(
    argv: list[str],
    error: str,
    groups: list[RecordedGroup],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    use(monkeypatch, groups)
    with pytest.raises(ConfigError) as caught:
        replay.main([str(tmp_path), *argv])
    assert str(caught.value) == error
