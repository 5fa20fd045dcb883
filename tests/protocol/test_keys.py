"""Keys and the list of who may connect: what is read, what is refused, and how a list changes under a run."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import zmq

from penstock.protocol import allow_list
from penstock.protocol.allow_list import Allowed, AllowList, read_allowed
from penstock.protocol.errors import KeyFileError
from penstock.protocol.key_files import replace
from penstock.protocol.keys import (
    make_pair,
    producer_text,
    read_producer_key,
    read_trainer_keys,
    read_trainer_pair,
    trainer_text,
)

ANN, BOB, CAT, TRAINER = (make_pair().public for _ in range(4))


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "allowed"
    replace(path, f"# who may connect\nann {ANN} 2026-01-02T03:04:05Z\n\nbob {BOB}\n")
    return path


def test_a_pair_is_one_of_curve(tmp_path: Path) -> None:
    pair = make_pair()
    assert zmq.curve_public(pair.secret.encode()).decode() == pair.public
    assert pair.secret not in repr(pair)


def test_the_trainer_s_key_is_read_as_it_was_written_and_is_a_producer_s_too(tmp_path: Path) -> None:
    pair = make_pair()
    replace(tmp_path / "trainer.key", trainer_text(pair))
    replace(tmp_path / "allowed", "")
    assert read_trainer_pair(tmp_path) == read_trainer_keys(tmp_path).pair == pair
    own = read_producer_key(tmp_path / "trainer.key")
    assert (own.pair, own.trainer) == (pair, pair.public)


def test_a_producer_s_key_names_its_trainer_s(tmp_path: Path) -> None:
    pair = make_pair()
    replace(tmp_path / "ann.key", producer_text(pair, TRAINER))
    key = read_producer_key(tmp_path / "ann.key")
    assert (key.pair, key.trainer, key.file) == (pair, TRAINER, str(tmp_path / "ann.key"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no key file"),
        ("[]", "must name public, secret, trainer"),
        ('{"public": 1, "secret": 2, "trainer": 3}', "40 characters of Z85"),
        (json.dumps({"public": ANN, "secret": BOB[:-1], "trainer": CAT}), "40 characters of Z85"),
        (json.dumps({"public": ANN}), "must name"),
        (json.dumps({"public": ANN, "secret": BOB, "trainer": CAT, "more": CAT}), "must name"),
        ("\udcff", "cannot be read"),
    ],
    ids=["nothing", "list", "numbers", "short", "missing", "more", "bytes"],  # not the keys, which are made anew
)
def test_what_is_no_key_file_is_refused_by_name(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "ann.key"
    path.write_bytes(text.encode(errors="surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=why) as caught:
        read_producer_key(path)
    assert str(caught.value).startswith(str(path))


def test_a_list_has_names_keys_and_days(listed: Path) -> None:
    assert [(each.name, each.key, each.since) for each in read_allowed(listed)] == [
        ("ann", ANN, "2026-01-02T03:04:05Z"),
        ("bob", BOB, ""),
    ]
    allowed = AllowList(listed, TRAINER)
    assert [allowed.name(key) for key in (ANN, BOB, CAT, TRAINER)] == ["ann", "bob", None, "trainer"]


@pytest.mark.parametrize(
    "line",
    [
        "ann",
        f"{ANN}",
        f"ann {ANN[:-1]}",
        f"ann {ANN} today and more",
        f"a/b {ANN}",
        f".. {ANN}",
        f"trainer {ANN}",
        f"bob {CAT}",
        f"cat {BOB}",
        "* *",
    ],
    ids=["no key", "no name", "short", "more", "path", "dots", "trainer", "name twice", "key twice", "wildcard"],
)
def test_a_line_that_is_none_is_refused_with_its_number(listed: Path, line: str) -> None:
    replace(listed, f"bob {BOB}\n{line}\n")
    with pytest.raises(KeyFileError, match=rf"{listed}:2: "):
        read_allowed(listed)


def test_who_is_added_may_come_at_once(listed: Path) -> None:
    allowed = AllowList(listed, TRAINER)
    replace(listed, listed.read_text() + f"cat {CAT}\n")
    assert allowed.name(CAT) is None
    assert allowed.refresh(100.0)
    assert allowed.name(CAT) == "cat"


def test_who_is_removed_may_come_no_more_once_the_file_has_stayed_so(listed: Path) -> None:
    allowed = AllowList(listed, TRAINER)
    generation = allowed.generation
    replace(listed, f"ann {ANN}\n")
    assert not allowed.refresh(100.0)
    assert not allowed.refresh(100.5)
    assert (allowed.name(BOB), allowed.generation) == ("bob", generation)
    assert allowed.refresh(101.0)
    assert (allowed.name(ANN), allowed.name(BOB)) == ("ann", None)
    assert allowed.generation != generation
    assert not allowed.refresh(102.0)


def test_half_a_list_in_the_middle_of_writing_revokes_nobody(listed: Path) -> None:
    """`cp` and editors empty a file first, and a line may be half there."""
    whole, allowed = listed.read_text(), AllowList(listed, TRAINER)
    for second, text in enumerate(["", whole[:40], f"ann {ANN[:20]}", whole[:-3], whole + f"cat {CAT}\n"]):
        listed.write_text(text)
        allowed.refresh(100.0 + 0.3 * second)
        assert (allowed.name(ANN), allowed.name(BOB)) == ("ann", "bob")
    allowed.refresh(103.0)
    assert [allowed.name(key) for key in (ANN, BOB, CAT)] == ["ann", "bob", "cat"]


def test_a_list_that_is_emptied_in_the_moment_of_reading_revokes_nobody(
    listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = AllowList(listed, TRAINER)
    listed.write_text(listed.read_text() + f"cat {CAT}\n")
    allowed.refresh(100.0)

    def empties(path: Path) -> Sequence[Allowed]:
        path.write_text("")
        return read_allowed(path)

    monkeypatch.setattr(allow_list, "read_allowed", empties)
    allowed.refresh(102.0)
    assert [allowed.name(key) for key in (ANN, BOB)] == ["ann", "bob"]


@pytest.mark.parametrize("spoil", ["loosen", "remove", "garble"])
def test_a_list_that_cannot_be_believed_stays_as_it_was_and_says_so(listed: Path, spoil: str) -> None:
    whole, allowed = listed.read_text(), AllowList(listed, TRAINER)
    if spoil == "loosen":
        replace(listed, "")
        listed.chmod(0o644)
    elif spoil == "remove":
        listed.unlink()
    else:
        replace(listed, "ann\n")
    assert not allowed.refresh(100.0)
    for now in (101.0, 102.0):
        with pytest.raises(KeyFileError, match=str(listed)):
            allowed.refresh(now)
        assert (allowed.name(ANN), allowed.name(BOB)) == ("ann", "bob")
    replace(listed, whole.replace("bob", "rob"))
    assert allowed.refresh(103.0)
    assert allowed.name(BOB) == "rob"


def test_the_ranks_of_a_run_let_in_each_other_s_own_producers(listed: Path) -> None:
    allowed = AllowList(listed, TRAINER)
    allowed.admit_ranks([TRAINER, CAT])
    assert (allowed.name(CAT), allowed.name(TRAINER)) == ("trainer", "trainer")
