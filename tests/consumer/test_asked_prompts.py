"""What was asked for is kept in the run folder: one asking for all ranks and all lives, and none before it is due."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.config.load import load_config
from penstock.consumer import run_folder
from penstock.consumer.__main__ import PRESETS
from penstock.consumer.config import StreamConfig, TrainConfig
from penstock.consumer.learning_config import ObjectiveConfig
from penstock.consumer.making_config import PromptsConfig, RealConfig
from penstock.consumer.opening import Opening, open_prompts, open_run
from penstock.consumer.prompts.opening import open_source
from penstock.consumer.prompts.source import PromptSource
from penstock.protocol.errors import ConfigError, EndpointError, PenstockError, RunError
from tests.consumer.prompts.asking.chat_server import fails, prompts, serve

ASKED = "birds of the alps, in every season"


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL", "PENSTOCK_ASK_MODEL"):
        monkeypatch.delenv(name, raising=False)


def _config(path: Path, command: str = ASKED, number: int = 40, **settings: Any) -> TrainConfig:
    return TrainConfig(
        run_dir=path,
        groups_per_step=4,
        prompts=PromptsConfig(ask=command, ask_prompts=number),
        stream=StreamConfig(endpoint="tcp://127.0.0.1:0"),
        **settings,
    )


@contextmanager
def _open(config: TrainConfig, rank: int = 0, world_size: int = 1) -> Iterator[Opening]:
    with ExitStack() as stack:
        yield open_run(config, rank, world_size, stack)


def _texts(source: PromptSource | None, count: int = 40) -> list[tuple[str, str]]:
    assert source is not None
    found = [source.prompt(index) for index in range(count)]
    return [(source.concepts[prompt.concept], prompt.text) for prompt in found]


def _with_checkpoint(path: Path) -> None:
    (path / "checkpoint").mkdir()
    (path / "checkpoint" / run_folder.CHECKPOINT_STATE).write_text("{}")


def test_two_ranks_read_what_one_of_them_asked_for(tmp_path: Path) -> None:
    stale = tmp_path / "run"
    with _open(_config(stale, "dogs and cats")):
        pass
    config = _config(stale, overwrite=True)
    # Rank 1 is the first to come, and an earlier run's prompts are there still.
    with _open(config, 1, 2) as second:
        assert second.prompts is None, "what lies there is not this run's yet"
        with _open(config, 0, 2) as first:
            mine = open_prompts(config, second.real)
            assert first.prompts is not None
            assert mine.digest == first.prompts.digest
            assert _texts(mine) == _texts(first.prompts)
    concepts = {concept for concept, _ in _texts(mine)}
    assert "golden eagle" in concepts
    assert "dog" not in concepts


def test_a_later_life_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    with serve([prompts(*[("robin", f"robin {number}") for number in range(4)]), fails(500)]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with _open(_config(path, number=4)) as opening:
            before = _texts(opening.prompts, 8)
        asked = len(server.requests)
        _with_checkpoint(path)
        with _open(_config(path, number=4, resume=True)) as opening:
            assert _texts(opening.prompts, 8) == before
        with _open(_config(path, number=4, resume=True), 1, 2) as opening:
            assert _texts(opening.prompts, 8) == before
        assert len(server.requests) == asked
    kept = open_source(PromptsConfig(source=str(path / "prompts.tsv")), 0)
    assert _texts(kept, 8) == before, "and another run may name the file as its source"
    assert (path / "prompts.tsv").read_text().splitlines()[0] == "concept\tcaption"


def test_a_resumed_run_whose_prompts_are_gone_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with _open(_config(path)):
        pass
    with pytest.raises(RunError, match="no checkpoint to resume"), _open(_config(path, resume=True)):
        pass
    _with_checkpoint(path)
    (path / "prompts.tsv").unlink()
    missing = r"prompts\.tsv is missing: it keeps what was made of --ask"
    with pytest.raises(RunError, match=missing), _open(_config(path, resume=True)):
        pass


def test_nobody_is_asked_for_a_run_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with serve([fails(500)]) as server, socket.socket() as taken:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(RunError, match="is not empty"), _open(_config(tmp_path)):
            pass
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        config = TrainConfig(
            run_dir=tmp_path / "run",
            groups_per_step=4,
            prompts=PromptsConfig(ask=ASKED),
            stream=StreamConfig(endpoint=address),
        )
        with pytest.raises(EndpointError), _open(config):
            pass
        assert not server.requests


def test_nobody_is_asked_for_a_run_whose_folder_another_trainer_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    with serve([fails(500)]) as server, _open(_config(path)):
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(RunError, match="another trainer is running"), _open(_config(path, overwrite=True)):
            pass
        assert not server.requests


def test_prompts_that_the_run_cannot_use_are_kept_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said = [("robin", f"robin {number}") for number in range(4)]
    config = _config(tmp_path / "run", number=4, objective=ObjectiveConfig(name="supervised"))
    with serve([prompts(*said)]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(ConfigError, match=r"got 1; .*what was asked for is kept in ") as caught, _open(config):
            pass
    kept = open_source(PromptsConfig(source=str(caught.value).rpartition(" ")[2]), 0)
    assert set(_texts(kept, 4)) == set(said)


def test_shares_that_cannot_be_read_are_refused_before_anybody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = PromptsConfig(ask=ASKED, balance="counts", balance_counts=str(tmp_path / "missing"))
    config = TrainConfig(run_dir=tmp_path / "run", prompts=described, stream=StreamConfig(endpoint="tcp://127.0.0.1:0"))
    with serve([fails(500)]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(ConfigError, match=r"balance_counts: cannot read"), _open(config):
            pass
        assert not server.requests


def test_overwrite_does_not_clear_the_captions_that_the_run_is_to_use(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with _open(_config(path)):
        pass
    config = TrainConfig(
        run_dir=path,
        overwrite=True,
        prompts=PromptsConfig(source=str(path / "prompts.tsv")),
        stream=StreamConfig(endpoint="tcp://127.0.0.1:0"),
    )
    with pytest.raises(ConfigError, match="which --overwrite clears; copy it elsewhere"), _open(config):
        pass
    assert (path / "prompts.tsv").is_file()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"ask": "birds", "concept_column": "class"}, r"prompts\.concept_column are of tables"),
        ({"source": "toyworld", "caption_column": "alt"}, r"prompts\.concept_column are of tables"),
        ({"ask": "birds", "concepts": "list.txt"}, r"prompts\.ask gives each prompt its concept"),
        ({"source": "a.txt", "templates": "t.yaml"}, r"prompts\.templates needs prompts\.source concepts"),
    ],
)
def test_settings_that_the_source_would_pass_over_are_refused(settings: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        PromptsConfig(**settings)


@pytest.mark.parametrize(
    ("command", "objective", "expected"),
    [
        ("!!!", "stablerep", "--ask must name what to show"),
        ("a red bicycle", "supervised", "needs prompts of at least 2 concepts, got 1; ask for several"),
    ],
)
def test_what_cannot_be_used_costs_no_earlier_run(command: str, objective: Any, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with _open(_config(path)) as opening:
        before = _texts(opening.prompts)
    config = _config(path, command, overwrite=True, objective=ObjectiveConfig(name=objective))
    with pytest.raises(PenstockError) as caught, _open(config):
        pass
    assert expected in str(caught.value)
    assert _texts(open_prompts(_config(path), None)) == before


def test_an_endpoint_that_refuses_costs_no_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    with _open(_config(path)):
        pass
    kept = (path / "prompts.tsv").read_text()
    with serve([fails(401, "no such key")]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(EndpointError, match="no such key"), _open(_config(path, overwrite=True)):
            pass
    assert (path / "prompts.tsv").read_text() == kept


def test_a_caption_with_tabs_and_quotes_comes_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = ['a "stop" sign', "#1 in a row", 'a 3" nail', "café in Zürich, at night; it's \\n raining"]
    with serve([prompts(*[("sign", text) for text in captions])]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with _open(_config(tmp_path / "run", number=4)) as opening:
            assert {text for _, text in _texts(opening.prompts, 4)} == set(captions)


def test_asking_excludes_another_source_and_is_not_done_where_no_run_begins(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts\.ask makes the prompts itself: leave prompts\.source out"):
        PromptsConfig(ask="birds", source="captions.txt")
    with pytest.raises(ConfigError, match=r"none are with real\.fraction 1"):
        TrainConfig(prompts=PromptsConfig(ask="birds"), real=RealConfig(source="toyworld", fraction=1.0))
    for command in ("\ud800", "a\x07cat", "  ", "x" * 1001):
        with pytest.raises(ConfigError, match=r"^ask must"):
            PromptsConfig(ask=command)
    with pytest.raises(ConfigError, match=r"answered where a run begins; here name the prompts\.tsv"):
        open_source(PromptsConfig(ask="birds"), 0)


def test_ask_is_a_flag_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    def load(*argv: str) -> TrainConfig:
        return load_config(TrainConfig, argv, preset_dir=PRESETS, prog="penstock train", description="")

    assert load("--ask", ASKED).prompts.ask == ASKED
    assert load(f"--ask={ASKED}").prompts == load("--prompts.ask", ASKED).prompts
    with pytest.raises(ConfigError, match="unknown flag --asks; did you mean '--ask'"):
        load("--asks", ASKED)
    with pytest.raises(ConfigError, match=r"^--ask: prompts\.ask makes"):
        load("--ask", ASKED, "--prompts.source", "x.txt")
    for empty in (["--ask", ""], ["--ask="]):
        with pytest.raises(ConfigError, match=r"^--ask is empty; give it a value, or leave it out$"):
            load(*empty)  # the shell's variable was not set: the default prompts were not meant
    with pytest.raises(SystemExit):
        load("--help")
    assert "--ask STR, --prompts.ask STR" in capsys.readouterr().out
