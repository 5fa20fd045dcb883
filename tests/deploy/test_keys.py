"""`penstock keys`: what it makes, whom it lets in and out, and what it refuses."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zmq

from penstock.deploy.cli import dispatch
from penstock.protocol.allow_list import read_allowed
from penstock.protocol.errors import ConfigError, KeyFileError, PenstockError
from penstock.protocol.keys import make_pair, read_producer_key, read_trainer_keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "run keys"
    dispatch(["keys", "init", str(made)])
    return made


def _keys(*words: object) -> int:
    return dispatch(["keys", *map(str, words)])


def test_init_makes_a_folder_of_one_s_own_and_a_list_of_nobody(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in [folder, *folder.iterdir()]} == {
        "run keys": "0o700",
        "trainer.key": "0o600",
        "allowed": "0o600",
    }
    assert read_allowed(folder / "allowed") == []
    keys = read_trainer_keys(folder)
    assert zmq.curve_public(keys.pair.secret.encode()).decode() == keys.pair.public
    assert keys.pair.secret not in capsys.readouterr().out


def test_init_does_not_replace_a_trainer_s_key(folder: Path) -> None:
    before = (folder / "trainer.key").read_bytes()
    with pytest.raises(KeyFileError, match=r"trainer\.key is there already"):
        _keys("init", folder)
    assert (folder / "trainer.key").read_bytes() == before


def test_init_refuses_a_folder_that_others_can_write(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(KeyFileError, match="chmod 700"):
        _keys("init", tmp_path / "open")
    assert list((tmp_path / "open").iterdir()) == []


def test_add_makes_a_key_that_the_list_knows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _keys("add", folder, "node-7")
    key = read_producer_key(folder / "node-7.key")
    (entry,) = read_allowed(folder / "allowed")
    assert (entry.name, entry.key, key.trainer) == ("node-7", key.pair.public, read_trainer_keys(folder).pair.public)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(entry.since)).total_seconds()) < 60
    assert (folder / "node-7.key").stat().st_mode & 0o777 == 0o600
    told = capsys.readouterr().out
    assert "penstock produce --key node-7.key" in told
    assert key.pair.secret not in told


def test_add_puts_the_key_where_it_is_told(folder: Path, tmp_path: Path) -> None:
    _keys("add", folder, "ann", "--out", tmp_path / "ann")
    assert read_producer_key(tmp_path / "ann").pair.public == read_allowed(folder / "allowed")[0].key
    assert not (folder / "ann.key").exists()


def test_add_takes_a_public_key_whose_secret_stays_away(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = make_pair()
    _keys("add", folder, "ann", f"--public={pair.public}")
    assert [(each.name, each.key) for each in read_allowed(folder / "allowed")] == [("ann", pair.public)]
    assert sorted(path.name for path in folder.iterdir()) == ["allowed", "trainer.key"]
    assert read_trainer_keys(folder).pair.public in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["ann"], "ann is there already, since 20"),
        (["bob", "--public={ann}"], "this key is there already, as ann"),
        (["bob", "--public={trainer}"], "the trainer's own key"),
        (["bob", "--public=short"], "40 characters of Z85"),
        (["bob", "--public={ann}", "--out", "x"], "leave out --out"),
        (["trainer"], "NAME must be"),
        (["../bob"], "NAME must be"),
        (["a b"], "NAME must be"),
        ([""], "NAME must be"),
        (["x" * 65], "NAME must be"),
        (["bob", "--out", "{folder}/ann.key"], "is there already"),
        (["bob", "--out", "{folder}/missing/bob.key"], "cannot be written"),
    ],
)
def test_add_refuses_and_changes_nothing(folder: Path, words: list[str], why: str) -> None:
    _keys("add", folder, "ann")
    known = {
        "ann": read_allowed(folder / "allowed")[0].key,
        "trainer": read_trainer_keys(folder).pair.public,
        "folder": folder,
    }
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(PenstockError, match=why):
        _keys("add", folder, *(word.format(**known) for word in words))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_revoke_takes_one_out_and_says_what_that_means(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ann", "bob"):
        _keys("add", folder, name)
    capsys.readouterr()
    _keys("revoke", folder, "ann")
    assert [each.name for each in read_allowed(folder / "allowed")] == ["bob"]
    assert not (folder / "ann.key").exists()
    told = " ".join(capsys.readouterr().out.split())
    for what in ("within two seconds", "ends its connections", "its tickets to others", "stays in use"):
        assert what in told
    with pytest.raises(ConfigError, match="lets in no ann; it lets in bob"):
        _keys("revoke", folder, "ann")
    _keys("add", folder, "ann")
    assert [each.name for each in read_allowed(folder / "allowed")] == ["bob", "ann"]


def test_list_says_who_and_since_when(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    _keys("list", folder)
    assert "nobody else may connect" in capsys.readouterr().out
    _keys("add", folder, "ann")
    (entry,) = read_allowed(folder / "allowed")
    capsys.readouterr()
    _keys("list", folder)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"trainer's public key: {read_trainer_keys(folder).pair.public}"
    assert lines[1:3] == ["name\tkey\tsince", f"ann\t{entry.key}\t{entry.since}"]


@pytest.mark.parametrize("verb", [["add", "ann"], ["revoke", "ann"], ["list"]])
def test_a_folder_without_keys_is_named_with_what_makes_it(tmp_path: Path, verb: list[str]) -> None:
    with pytest.raises(KeyFileError, match="penstock keys"):
        _keys(verb[0], tmp_path / "none", *verb[1:])


@pytest.mark.parametrize("words", [[], ["give"], ["add"], ["add", "x"], ["list", "x", "y"]])
def test_a_mistake_is_one_line(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"see penstock keys.* --help"):
        _keys(*words)


def test_two_that_add_at_a_time_lose_nobody(folder: Path) -> None:
    threads = [threading.Thread(target=_keys, args=("add", folder, f"p{number}")) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {each.name for each in read_allowed(folder / "allowed")} == {f"p{number}" for number in range(12)}
