"""Key files: only what nobody else can read or replace is believed, and what is written is so."""

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.protocol.errors import KeyFileError
from penstock.protocol.key_files import read_private, replace, write_new

pytestmark = pytest.mark.usefixtures("an_open_umask")


@pytest.fixture
def an_open_umask() -> Iterator[None]:
    """As careless as can be."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    made.mkdir(mode=0o700)
    return made


def test_what_is_written_is_its_owner_s_alone_however_the_umask_is(folder: Path) -> None:
    write_new(folder / "a", "one\n")
    replace(folder / "b", "two\n")
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {"a": 0o600, "b": 0o600}
    assert (read_private(folder / "a"), read_private(folder / "b")) == ("one\n", "two\n")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601, 0o666])
def test_a_file_that_others_can_read_or_write_is_refused_with_its_mode_and_what_to_do(folder: Path, mode: int) -> None:
    write_new(folder / "a", "one")
    (folder / "a").chmod(mode)
    with pytest.raises(KeyFileError, match=rf"open to others \(mode {mode:04o}\); chmod 600 {folder}/a"):
        read_private(folder / "a")


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_in_which_others_can_replace_files_is_refused(folder: Path, mode: int) -> None:
    write_new(folder / "a", "one")
    folder.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"{folder} can be written by others \(mode {mode:04o}\).*chmod 700"):
        read_private(folder / "a")


def test_a_sticky_folder_is_none_in_which_others_can_replace_files(folder: Path) -> None:
    write_new(folder / "a", "one")
    folder.chmod(0o1777)
    assert read_private(folder / "a") == "one"


def test_a_mounted_secret_is_read_through_its_links(folder: Path) -> None:
    """Kubernetes: DIR/name → ..data/name, ..data → a folder of this version; the file 0400."""
    version = folder / "..2026"
    version.mkdir(mode=0o755)
    write_new(version / "a", "one")
    (version / "a").chmod(0o400)
    (folder / "..data").symlink_to("..2026")
    (folder / "a").symlink_to("..data/a")
    assert read_private(folder / "a") == "one"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("owner", "mode", "is_read"),
    [(0, 0o440, True), (0, 0o640, True), (0, 0o444, False), (0, 0o460, False), (4242, 0o400, False)],
    ids=["root's, for a group", "root's, too", "for all", "a group may write", "of another user"],
)
def test_another_user_s_file_is_believed_only_where_it_is_root_s(
    folder: Path, owner: int, mode: int, is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_new(folder / "a", "one")
    os.chown(folder / "a", owner, 0)
    (folder / "a").chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if is_read:
        assert read_private(folder / "a") == "one"
        return
    with pytest.raises(KeyFileError, match=r"open to others|belongs to user 4242"):
        read_private(folder / "a")


@pytest.mark.parametrize("name", ["missing", "missing/a", "."])
def test_what_is_no_file_is_named(folder: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match=re.escape(str(folder / name).removesuffix("/a"))):
        read_private(folder / name)


def test_no_file_is_overwritten_and_none_is_written_through_a_link(folder: Path) -> None:
    write_new(folder / "a", "one")
    (folder / "b").symlink_to(folder / "c")
    for name in ("a", "b"):
        with pytest.raises(KeyFileError, match="is there already"):
            write_new(folder / name, "two")
    assert read_private(folder / "a") == "one"
    assert not (folder / "c").exists()


def test_whoever_reads_while_a_file_is_replaced_sees_one_or_the_other_whole(folder: Path) -> None:
    texts = {"a" * 50_000, "b" * 90_000}
    replace(folder / "a", max(texts))
    seen: set[str] = set()
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            seen.add(read_private(folder / "a"))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        for text in texts:
            replace(folder / "a", text)
    is_over.set()
    reader.join(10)
    assert seen <= texts
    assert [path.name for path in folder.iterdir()] == ["a"]
