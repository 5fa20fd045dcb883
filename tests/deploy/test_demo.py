"""The demo is one launch of the trainer; what can be refused without starting it is."""

import sys
from pathlib import Path

import pytest

from penstock.deploy import demo
from penstock.protocol.errors import ConfigError


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that the demo launches, none of which is run; its preset is empty."""
    (tmp_path / "demo.yaml").write_text("max_steps: 5\n")
    commands: list[list[str]] = []
    monkeypatch.setattr(demo, "preset_dir", lambda: tmp_path)
    monkeypatch.setattr(demo, "run_group", lambda command: commands.append(command) or 0)
    return commands


def test_the_preset_demo_is_launched_through_accelerate(launched: list[list[str]]) -> None:
    assert demo.main(["--overwrite", "--max-steps", "20"]) == 0
    assert launched[0][:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    tail = ["--config", "demo", "--run-dir", "runs/demo", "--overwrite", "--max-steps", "20"]
    assert launched[0][-len(tail) :] == tail


def test_another_config_takes_the_presets_place(launched: list[list[str]], tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("max_steps: 3\n")
    demo.main(["--config", str(other)])
    assert launched[0][-3:] == ["penstock.consumer", "--config", str(other)]


def test_a_mistake_is_refused_before_anything_starts(launched: list[list[str]]) -> None:
    with pytest.raises(ConfigError, match="unknown flag --max-step"):
        demo.main(["--max-stepz", "3"])
    assert launched == []


def test_help_starts_nothing(launched: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        demo.main(["--help"])
    assert caught.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "--max-steps" in told
    assert "--config demo --run-dir runs/demo" in told  # the table of flags shows the trainer's own defaults
    assert launched == []


def test_a_failure_comes_through_without_a_farewell(
    launched: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "run_group", lambda _: 1)
    assert demo.main([]) == 1
    assert capsys.readouterr().out == ""


def test_the_farewell_names_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "demo.png").write_bytes(b"")
    (tmp_path / "encoder").mkdir()
    text = demo.farewell(tmp_path)
    for name in ("summary.json", "demo.png", "encoder", "Try next"):
        assert name in text
    (tmp_path / "demo.png").unlink()
    assert "picture" not in demo.farewell(tmp_path)


def test_a_shell_without_penstock_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").touch()
    (programs / "penstock").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "Try next:\n  source .venv/bin/activate   # once in a shell\n  penstock replay" in demo.farewell(tmp_path)
    monkeypatch.setenv("PATH", str(programs))
    assert "activate" not in demo.farewell(tmp_path)
