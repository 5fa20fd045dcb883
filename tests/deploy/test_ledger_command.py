"""`penstock ledger`: what it says, in words, in columns and in JSON, and what it says where there is nothing to say."""

import json
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.consumer.group import Quarantined
from penstock.consumer.ledger import Ledger
from penstock.deploy.cli import dispatch
from penstock.protocol.errors import ConfigError, PenstockError
from penstock.protocol.tickets import Recipe
from tests.consumer.test_ledger import LIFE, a_group

LONG = "a very long caption " * 12


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Two steps of groups 0 to 3 by two producers, two concepts; one group that nobody could make, one filtered."""
    (tmp_path / "run.json").write_text("{}")
    prompts = ["a red fox", LONG, "a red fox", "a dog\nwith \x1b[31mcolour"]
    with Ledger(tmp_path / "ledger-0.sqlite", LIFE | {"images_per_use": 4}) as ledger:
        for index, prompt in enumerate(prompts):
            group = a_group(index, prompt, f"ann-{index % 2}", crc32=7 + index)
            if index == 2:
                group = replace(group, candidates=(0, 5, 2, 3), num_made=10, num_unsatisfied=1)
            ledger.group(group, "fox" if index % 2 == 0 else "")
        ledger.step(0, [0, 1])
        ledger.quarantined(Quarantined(a_group(3, "poison").ticket, "why", a_group(3, "x", stand_in=1).ticket))
        ledger.step(1, [3, 1, 2])
    return tmp_path


def _ask(capsys: pytest.CaptureFixture[str], run_dir: Path, *words: str) -> list[str]:
    assert dispatch(["ledger", str(run_dir), *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_without_a_filter_it_says_what_is_there(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = dict(line.split(maxsplit=1) for line in _ask(capsys, run_dir) if not line.startswith(" "))
    size = (run_dir / "ledger-0.sqlite").stat().st_size
    assert told == {
        "steps": "0 to 1, in 1 life of up to 1 rank",
        "groups": "4",
        "uses": "5, 1.2 a group",
        "prompts": "3",
        "producers": "ann-0: 2 groups (tiny, float32 on cpu, eager)",
        "concepts": "1: fox 2",
        "quarantined": "1",
        "filter": "scored 10 images, accepted 3 of them (30.0%)",
        "on": f"disk     {size:,} bytes, {size / 4:.0f} a group",
    }
    (summary,) = map(json.loads, _ask(capsys, run_dir, "--json"))
    assert (summary["steps"], summary["num_uses"], summary["num_rejected"]) == ([0, 1], 5, 7)
    assert summary["lives"][0]["life"] == LIFE["life"]


def test_a_step_is_listed_in_the_order_of_its_batch(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = [line.split("\t") for line in _ask(capsys, run_dir, "--step", "1")]
    assert head == ["group", "step", "concept", "producer", "seed", "use", "images", "prompt"]
    assert [row[0] for row in rows] == ["3", "1", "2"]
    assert [row[5] for row in rows] == ["1", "2", "1"]
    assert rows[0][6:] == ["0 1 2 3", "a dog with \\x1b[31mcolour"], "nothing that a terminal would obey"
    assert rows[1][7] == LONG.strip(), "no prompt is cut"


@pytest.mark.parametrize(
    ("words", "indices"),
    [
        (["--prompt", "A red  fox"], ["0", "2"]),
        (["--prompt", "caption"], ["1"]),
        (["--producer", "ann-1"], ["1", "3"]),
        (["--concept", "fox", "--step", "1"], ["2"]),
        (["--index", "3"], ["3"]),
    ],
)
def test_filters_leave_what_passes_them_all(
    words: list[str], indices: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [line.split("\t")[0] for line in _ask(capsys, run_dir, *words)[1:]] == indices


def test_a_list_has_its_limit_and_says_so(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = _ask(capsys, run_dir, "--prompt", "a", "--limit", "2")
    assert len(lines) == 4
    assert lines[-1] == "2 groups of 4; --limit 0 lists all"
    assert len(_ask(capsys, run_dir, "--prompt", "a", "--limit", "0")) == 5
    assert len(_ask(capsys, run_dir, "--prompt", "a", "--json", "--limit", "3")) == 3


def test_json_has_all_that_makes_the_images_again(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = map(json.loads, _ask(capsys, run_dir, "--index", "2", "--json"))
    expected = a_group(2, "a red fox").ticket.recipe.choose((0, 5, 2, 3))
    assert Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in line["recipe"].items()}) == expected
    assert (line["index"], line["crc32"], line["num_made"], line["producer"]) == (2, 9, 10, "ann-0")
    assert line["manifest"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--step", "2"], r"--step 2 is not in the ledger; its steps are 0 to 1$"),
        (["--producer", "anne-1"], r"--producer anne-1 is not in the ledger; did you mean 'ann-1'\?$"),
        (["--producer", "zzz"], r"--producer zzz is not in the ledger; known are ann-0, ann-1$"),
        (["--concept", "fxo"], r"--concept fxo is not in the ledger; did you mean 'fox'\?$"),
        (["--index", "4"], r"--index 4 is not in the ledger, which holds 4 groups$"),
        (["--index", "9" * 20], r"--index 9{20} is not in the ledger, which holds 4 groups$"),
        (["--index", "-1"], r"--index -1 is not in the ledger, which holds 4 groups$"),
        (["--prompt", "\udcff"], r"--prompt must be UTF-8 text, got '\\udcff' \(see penstock ledger --help\)$"),
        (["--prompt", "zebra"], r"--prompt 'zebra' is no prompt of the ledger, and stands in none$"),
        (["--prompt", "red", "--producer", "ann-1"], r"^no group has all of these: --prompt red, --producer ann-1$"),
        (["--limit", "-1"], r"--limit must be >= 0, got -1"),
        (["--stepp", "1"], r"unrecognized arguments: --stepp 1 \(see penstock ledger --help\)"),
    ],
)
def test_no_answer_is_one_line_and_status_2(words: list[str], told: str, run_dir: Path) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        dispatch(["ledger", str(run_dir), *words])
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_what_is_no_run_or_no_ledger_is_one_line_and_status_2(tmp_path: Path) -> None:
    for make, told in (
        (lambda: None, "is not the folder of a run"),
        (lambda: (tmp_path / "run.json").write_text("{}"), "has no ledger"),
        (lambda: sqlite3.connect(tmp_path / "ledger-0.sqlite").execute("CREATE TABLE t (x)"), "no ledger"),
    ):
        make()
        with pytest.raises(PenstockError, match=told) as caught:
            dispatch(["ledger", str(tmp_path)])
        assert caught.value.exit_code == 2


def test_in_a_terminal_prompts_are_folded_and_whole(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    lines = [re.sub(r"\x1b\[\d*m", "", line) for line in _ask(capsys, run_dir, "--index", "1")]
    assert max(map(len, lines)) <= 100
    start = lines[0].index("prompt")
    assert " ".join(" ".join(line[start:] for line in lines[1:]).split()) == LONG.strip()


def test_in_a_narrow_terminal_prompts_stand_below_their_rows(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "64")
    lines = [re.sub(r"\x1b\[\d*m", "", line).rstrip() for line in _ask(capsys, run_dir, "--index", "1")]
    assert max(map(len, lines)) <= 64
    assert lines[1] == "  prompt"
    assert not lines[2].startswith(" ")
    assert " ".join(line.strip() for line in lines[3:]) == LONG.strip()
