"""The command line's front door: quick, and helpful to whoever mistypes."""

import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from penstock.deploy import cli
from penstock.protocol.errors import ConfigError

PENSTOCK = Path(sys.executable).with_name("penstock")


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PENSTOCK, *argv], capture_output=True, text=True, timeout=60, check=False)


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.dispatch(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {verb} " in shown for verb in cli.VERBS)


def test_no_verb_is_a_mistake_that_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.dispatch([]) == 2
    assert "usage: penstock VERB" in capsys.readouterr().err


def test_the_verb_gets_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "VERBS", {"train": lambda argv: len(argv)})
    assert cli.dispatch(["train", "--max-steps", "3"]) == 2


@pytest.mark.parametrize(
    ("verb", "hint"), [("dem", "; did you mean 'demo'?"), ("trian", "; did you mean 'train'?"), ("xyz", "")]
)
def test_an_unknown_verb_is_refused_by_name(verb: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cli.dispatch([verb])
    assert str(caught.value) == f"no such verb: {verb}{hint} (see penstock --help)"


def test_the_installed_command_says_its_version_and_refuses_in_one_line() -> None:
    assert run("--version").stdout == f"penstock {metadata.version('penstock')}\n"
    refused = run("demmo")
    assert refused.returncode == 2
    assert refused.stderr == "error: no such verb: demmo; did you mean 'demo'? (see penstock --help)\n"
    assert run("produce", "--batch-imags", "3").stderr.startswith("error: unknown flag --batch-imags; did you mean")


@pytest.mark.parametrize(
    "verb", ["demo", "produce", "train", "evaluate", "profile", "sweep", "replay", "export", "audit", "doctor"]
)
def test_every_verb_has_help(verb: str) -> None:
    done = run(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"penstock {verb}" in done.stdout


def test_help_comes_within_a_second() -> None:
    def seconds() -> float:
        start_s = time.monotonic()
        run("--help")
        return time.monotonic() - start_s

    assert min(seconds() for _ in range(3)) < 1.0
