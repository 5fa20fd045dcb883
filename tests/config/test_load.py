"""Files and flags: each kind of mistake a user makes, and the one line that he gets for it."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import pytest

from penstock.config.flags import short_name
from penstock.config.load import flag_names, load_config
from penstock.protocol.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """A section."""

    temperature: float = 0.1
    """Softmax temperature."""
    kind: Literal["stablerep", "simclr"] = "stablerep"

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A program's settings."""

    objective: Objective = Objective()
    max_steps: int = 10
    """How many steps to train."""
    betas: tuple[float, float] = (0.9, 0.98)
    hosts: tuple[str, ...] = ()
    run_dir: Path = Path("runs/x")
    model: Path | None = None
    note: Annotated[str, short_name("--n")] = ""
    overwrite: bool = False
    port: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.max_steps < 0:
            raise ConfigError(f"max_steps must be >= 0, got {self.max_steps}")
        if self.port == 0 and self.objective.kind != "simclr":
            raise ConfigError(f"objective.kind must be simclr for port 0, got {self.objective.kind}")


DEMO = """\
# a comment
objective:
  temperature: 2e-1
max_steps: 25_000
run_dir: runs/demo
"""


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the presets `demo` and `small`; the working folder is its parent."""
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "demo.yaml").write_text(DEMO)
    (folder / "small.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    return folder


def load(presets: Path, *argv: str) -> Program:
    return load_config(Program, argv, preset_dir=presets, prog="penstock train", description="Train.")


def refusal(presets: Path, *argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(presets, *argv)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert "\n" not in message
    return message


def in_file(presets: Path, text: str) -> str:
    (presets / "demo.yaml").write_text(text)
    return refusal(presets, "--config", "demo")


def test_without_a_file_the_defaults_hold(presets: Path) -> None:
    assert load(presets) == Program()


def test_an_empty_file_changes_nothing(presets: Path) -> None:
    assert load(presets, "--config", "small") == Program()


def test_a_preset_overrides_defaults_and_flags_override_the_preset(presets: Path) -> None:
    config = load(presets, "--max-steps", "20", "--config", "demo", "--objective.kind", "simclr")
    expected = Objective(temperature=0.2, kind="simclr")
    assert config == Program(objective=expected, max_steps=20, run_dir=Path("runs/demo"))


def test_every_type_reads_from_a_file(presets: Path) -> None:
    text = "betas: [0.5, 1]\nhosts: [a, 'no']\nmodel: null\nnote: '7'\noverwrite: true\nport: 5555\n"
    (presets / "demo.yaml").write_text(text)
    config = load(presets, "--config=demo")
    assert config == Program(betas=(0.5, 1.0), hosts=("a", "no"), note="7", overwrite=True, port=5555)
    assert isinstance(config.betas[1], float)


def test_every_type_reads_from_flags(presets: Path) -> None:
    words = [
        "--betas",
        "0.5",
        "1",
        "--hosts",
        "a",
        "b",
        "--model",
        "m",
        "--note",
        "n",
        "--overwrite",
        "--port",
        "5555",
    ]
    config = load(presets, *words)
    assert config == Program(betas=(0.5, 1.0), hosts=("a", "b"), model=Path("m"), note="n", overwrite=True, port=5555)


def test_a_value_may_be_a_command_s_arguments(presets: Path) -> None:
    settings = load(presets, "--note", "--seed 1 --config x", "--config", "demo", "--overwrite")
    assert (settings.note, settings.max_steps, settings.overwrite) == ("--seed 1 --config x", 25_000, True)
    assert load(presets, "--note=-v -v").note == "-v -v"
    assert "--note" in refusal(presets, "--note", "--overwrite")


def test_a_path_reads_that_file(presets: Path) -> None:
    assert load(presets, "--config", "presets/demo.yaml").max_steps == 25_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "presets/demo.yaml:1: a: unknown key"),
        ("max_step: 1\n", "presets/demo.yaml:1: max_step: unknown key; did you mean 'max_steps'?"),
        (
            "note: x\nobjective:\n  temperatur: 1\n",
            "presets/demo.yaml:3: objective.temperatur: unknown key; did you mean 'temperature'?",
        ),
        (
            "max_steps: 1\nnote: x\nmax_steps: 2\n",
            "presets/demo.yaml:3: max_steps: given twice; first in line 1",
        ),
        ("max_steps: ten\n", "presets/demo.yaml:1: max_steps: expected an integer, got text 'ten'"),
        ("max_steps: '10'\n", "presets/demo.yaml:1: max_steps: expected an integer, got text '10'"),
        ("max_steps: 010\n", "presets/demo.yaml:1: max_steps: expected an integer, got int '010'"),
        ("max_steps: 1:30\n", "presets/demo.yaml:1: max_steps: expected an integer, got int '1:30'"),
        ("max_steps: 1.5\n", "presets/demo.yaml:1: max_steps: expected an integer, got float '1.5'"),
        ("max_steps: true\n", "presets/demo.yaml:1: max_steps: expected an integer, got bool 'true'"),
        ("max_steps:\n", "presets/demo.yaml:1: max_steps: expected an integer, got null"),
        ("max_steps: [1]\n", "presets/demo.yaml:1: max_steps: expected an integer, got a list"),
        ("overwrite: yes\n", "presets/demo.yaml:1: overwrite: expected true or false, got bool 'yes'"),
        ("note: no\n", "presets/demo.yaml:1: note: expected text, got bool 'no' (in quotes it is text)"),
        ("objective: 3\n", "presets/demo.yaml:1: objective: expected a section of keys, got int '3'"),
        (
            "objective:\n  temperature: .nan\n",
            "presets/demo.yaml:2: objective.temperature: expected a number, got float '.nan'",
        ),
        (
            "objective:\n  kind: simcrl\n",
            "presets/demo.yaml:2: objective.kind: expected one of 'stablerep', 'simclr', got 'simcrl'"
            "; did you mean 'simclr'?",
        ),
        ("betas: [1]\n", "presets/demo.yaml:1: betas: expected a list of 2 values, got 1"),
        ("hosts: a\n", "presets/demo.yaml:1: hosts: expected a list, each text, got text 'a'"),
        (
            "hosts:\n  - a\n  - 3\n",
            "presets/demo.yaml:3: hosts[1]: expected text, got int '3' (in quotes it is text)",
        ),
        ("port: any\n", "presets/demo.yaml:1: port: expected an integer or 'auto', got text 'any'"),
        ("model: 3\n", "presets/demo.yaml:1: model: expected a path, got int '3'"),
        ("- a\n", "presets/demo.yaml:1: expected a section of keys, got a list"),
        ("? [a]\n: b\n", "presets/demo.yaml:1: a key must be a word, not a list or a section"),
        ("note: !!python/name:os.system x\n", "presets/demo.yaml:1: note: tags such as"),
        ("note: [a\n", "presets/demo.yaml:2: not valid YAML: "),
        ("note: \x07\n", "presets/demo.yaml: not valid YAML: "),
        ("a: 1\n---\nb: 2\n", "presets/demo.yaml:2: not valid YAML: "),
        (
            "note: x\nobjective:\n  kind: simclr\n  temperature: -1\n",
            "presets/demo.yaml:4: objective: temperature must be > 0, got -1.0",
        ),
        (
            "note: x\nobjective: {}\nport: 0\n",
            "presets/demo.yaml:2: objective.kind must be simclr for port 0, got stablerep",
        ),
        ("note: x\nmax_steps: -1\n", "presets/demo.yaml:2: max_steps must be >= 0, got -1"),
    ],
)
def test_a_mistake_in_a_file_is_named_by_line_and_key(presets: Path, text: str, message: str) -> None:
    assert in_file(presets, text).startswith(message)


def test_a_file_that_is_not_text_is_refused(presets: Path) -> None:
    (presets / "demo.yaml").write_bytes(b"note: \xff\n")
    assert refusal(presets, "--config", "demo") == "presets/demo.yaml: not UTF-8 text (byte 6)"


def test_a_required_key_that_the_file_leaves_out_is_named(presets: Path) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Needs:
        model: str

    with pytest.raises(ConfigError, match=r"small\.yaml.*: model: required, but the file does not give it"):
        load_config(Needs, ["--config", "small"], preset_dir=presets, prog="p", description="d")
    assert load_config(Needs, ["--model", "m"], preset_dir=presets, prog="p", description="d") == Needs(model="m")
    with pytest.raises(ConfigError, match="--model"):
        load_config(Needs, [], preset_dir=presets, prog="p", description="d")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config", "dmo"], "--config dmo: no such preset; did you mean 'demo'? (presets: demo, small)"),
        (["--config", "gone.yaml"], "--config gone.yaml: no such file (presets: demo, small)"),
        (["--config", "presets"], "--config presets: is a folder; name a YAML file or a preset"),
        (
            ["--max-stepz", "3"],
            "unknown flag --max-stepz; did you mean '--max-steps'? (see penstock train --help)",
        ),
        (
            ["--objective.temperatur=3"],
            "unknown flag --objective.temperatur; did you mean '--objective.temperature'? (see penstock train --help)",
        ),
        (["demo"], "unexpected argument 'demo'; did you mean '--config demo'?"),
        (["other"], "unexpected argument 'other' (see penstock train --help)"),
        (["--max-steps", "x"], "--max-steps: expected an integer, got 'x'"),
        (["--objective.temperature", "-1"], "--objective: temperature must be > 0, got -1.0"),
        (["--max-steps", "-1"], "--max-steps: max_steps must be >= 0, got -1"),
    ],
)
def test_a_mistake_in_a_flag_is_one_line(presets: Path, argv: list[str], message: str) -> None:
    assert refusal(presets, *argv) == message


@pytest.mark.parametrize("argv", [["--max-steps"], ["--config"], ["--objective.kind", "c"]])
def test_a_flag_without_its_value_or_with_a_foreign_one_names_the_flag(presets: Path, argv: list[str]) -> None:
    assert argv[0] in refusal(presets, *argv)


def test_help_lists_flags_presets_and_the_files_defaults(presets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(presets, "--config", "demo", "--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for part in (
        "penstock train",
        "--config",
        "demo, small",
        "--objective.temperature",
        "25000",
        "How many steps",
    ):
        assert part in shown


def test_flag_names_are_what_the_user_types() -> None:
    assert flag_names(Program)[:3] == ["--objective.temperature", "--objective.kind", "--max-steps"]


def test_a_second_name_is_a_flag_as_well(presets: Path) -> None:
    assert flag_names(Program)[-4:] == ["--note", "--n", "--overwrite", "--port"]
    assert load(presets, "--n", "x").note == load(presets, "--note", "x").note == "x"
    assert "'--note/--n'" in refusal(presets, "--n") or "'--n/--note'" in refusal(presets, "--n")
