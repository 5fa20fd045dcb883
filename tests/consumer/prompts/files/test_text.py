"""Captions of text files: lines as every editor writes them, concepts before a tab."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.consumer.prompts.files import indexed_file
from penstock.protocol.errors import ConfigError, RunError
from penstock.protocol.tickets import prompt_id
from tests.consumer.prompts.files.opened import opened, tagged, texts, write


@pytest.mark.parametrize(
    "content",
    [
        b"a fox\na dog\n",
        b"a fox\r\na dog\r\n",
        b"a fox\ra dog",
        b"a fox\ra dog\r",
        b"\xef\xbb\xbfa fox\na dog",
        b"\n\n  a fox \t\n \na dog\n\n",
        "\u3000a fox\u00a0\n\u2003\n\u3000\na dog".encode(),
    ],
    ids=["unix", "windows", "old mac", "old mac, ended", "byte order mark", "blank lines", "wide blanks"],
)
def test_lines_are_read_as_every_editor_writes_them(content: bytes, tmp_path: Path) -> None:
    captions = opened(write(tmp_path, content))
    assert texts(captions) == ["a fox", "a dog"]
    assert captions.concepts == ()
    assert captions.concept_codes is None


def test_only_line_ends_end_a_caption(tmp_path: Path) -> None:
    caption = "a fox\u2028in two\x0cparts\x85or more"
    assert texts(opened(write(tmp_path, caption.encode()))) == [caption]


def test_any_suffix_or_none_is_text(tmp_path: Path) -> None:
    assert texts(opened(write(tmp_path, b"a fox\n", "captions"))) == ["a fox"]
    assert texts(opened(write(tmp_path, b"a fox\n", "captions.list"))) == ["a fox"]


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xef\xbb\xbf", b"\n" * 3000])
def test_a_file_without_captions_is_refused(content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError, match=rf"^prompts\.source: {path} has no captions; write one a line$"):
        opened(path)


def test_captions_behind_a_mib_of_empty_lines_are_found(tmp_path: Path) -> None:
    assert texts(opened(write(tmp_path, b"\n" * (1 << 20) + b"a fox\na dog\n"))) == ["a fox", "a dog"]


@pytest.mark.parametrize("name", ["missing.txt", "empty folder"])
def test_what_is_not_there_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty folder").mkdir()
    with pytest.raises(ConfigError, match=rf"^prompts\.source: .*{name}.*$") as caught:
        opened(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["a fox in the snow " * 300, "~nobody-of-this-name/captions.txt", "a\0b"])
def test_what_can_be_no_path_is_refused_in_one_line(source: str) -> None:
    with pytest.raises(ConfigError, match=r"^prompts\.source: [^\n]{,200}$"):
        opened(source)


def test_a_file_in_utf_16_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"captions\.txt is UTF-16; save it as UTF-8$"):
        opened(write(tmp_path, "a fox\na dog\n".encode("utf-16")))


def test_columns_are_of_tables(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts\.caption_column is of tables: .* is read as text, got 'x'$"):
        opened(write(tmp_path, b"a fox\n"), caption_column="x")


TAGGED = b"fox\ta red fox\ndog\ta dog in snow\nfox\ta fox at night\n"


@pytest.mark.parametrize(
    "content",
    [
        TAGGED,
        TAGGED.replace(b"\n", b"\r\n"),
        TAGGED.replace(b"\n", b"\r"),
        b"\xef\xbb\xbf" + TAGGED,
        b"\n  fox \t  a red fox  \n\n\tdog\t a dog in snow\t\n \t \nfox\ta fox at night",
    ],
    ids=["unix", "windows", "old mac", "byte order mark", "white space"],
)
def test_a_line_may_name_its_concept(content: bytes, tmp_path: Path) -> None:
    captions = opened(write(tmp_path, content))
    assert captions.concepts == ("dog", "fox"), "in an order that the file's does not change"
    assert tagged(captions) == [("fox", "a red fox"), ("dog", "a dog in snow"), ("fox", "a fox at night")]


def test_only_the_first_tab_parts_concept_and_caption(tmp_path: Path) -> None:
    captions = opened(write(tmp_path, b"fox\ta\tred fox\ndog\ta dog"))
    assert tagged(captions) == [("fox", "a\tred fox"), ("dog", "a dog")]


def test_a_caption_may_come_twice_with_one_concept(tmp_path: Path) -> None:
    captions = opened(write(tmp_path, b"fox\ta fox\nfox\ta fox\ndog\ta dog\n"))
    assert tagged(captions) == [("fox", "a fox"), ("fox", "a fox"), ("dog", "a dog")]


@pytest.mark.parametrize("other", ["a fox", "A  fox", "ａ fox"])
def test_spellings_of_one_prompt_have_one_concept(other: str, tmp_path: Path) -> None:
    """They share a prompt_id, and so are one prompt everywhere else."""
    assert prompt_id(other) == prompt_id("a fox")
    path = write(tmp_path, f"fox\ta fox\ndog\t{other}\n".encode())
    with pytest.raises(ConfigError, match=rf"{path}: '{other}' must have one concept, got 'dog' and 'fox'$"):
        opened(path)


def test_the_digest_changes_with_captions_concepts_and_their_order(tmp_path: Path) -> None:
    contents = [
        b"a fox\na dog",
        b"a dog\na fox",
        b"a fox\na dog\na cat",
        b"fox\ta fox\ndog\ta dog",
        b"cat\ta fox\ndog\ta dog",
        b"dog\ta fox\nfox\ta dog",
    ]
    digests = [opened(write(tmp_path, content)).digest for content in contents]
    assert len(set(digests)) == len(contents)
    assert opened(write(tmp_path, contents[0], "elsewhere.txt")).digest == digests[0]


def _expected(content: str) -> list[str]:
    """Captions by Python's own reading of lines."""
    lines = content.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.strip() for line in lines if line.strip()]


ALPHABET = st.sampled_from("ab \n\r\u3000\u00e9\u2028\u0085\x1cの😀")


@given(content=st.text(ALPHABET, max_size=80), chunk=st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_chunks_of_any_size_give_the_lines_that_python_reads(
    content: str, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected = _expected(content)
    if not expected:
        return
    path = write(tmp_path_factory.mktemp("text"), content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexed_file, "_CHUNK_BYTES", chunk)
        captions = opened(path)
    assert texts(captions) == expected
    order = [*range(len(expected))]
    random.Random(0).shuffle(order)
    assert [captions.caption(row).text for row in order] == [expected[row] for row in order]


def test_a_file_of_several_chunks_is_read_whole(tmp_path: Path) -> None:
    expected = [f"caption {number} " + "x" * (number % 100) for number in range(80_000)]
    content = "\n".join(expected).encode()
    assert len(content) > 4 << 20
    captions = opened(write(tmp_path, content))
    assert len(captions) == len(expected)
    for row in [0, 1, 7, 8, 79_999, *random.Random(0).sample(range(80_000), 2000)]:
        assert captions.caption(row).text == expected[row].strip()


@pytest.mark.parametrize("change", ["shrinks", "is written anew"])
def test_a_file_that_changes_under_a_run_ends_it_in_one_line(change: str, tmp_path: Path) -> None:
    path = write(tmp_path, b"".join(b"caption %d\n" % number for number in range(1000)))
    captions = opened(path)
    path.write_bytes(b"caption 0\n" if change == "shrinks" else b"".join(b"Caption %d\n" % n for n in range(1000)))
    with pytest.raises(RunError, match=rf"^{path} has changed since the run opened it; [^\n]*$"):
        texts(captions)


def test_a_caption_that_was_cut_short_is_never_returned(tmp_path: Path) -> None:
    path = write(tmp_path, b"".join(b"caption %d\n" % number for number in range(1000)))
    captions = opened(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 3)
    with pytest.raises(RunError, match=rf"^{path} has changed since the run opened it; "):
        captions.caption(999)


def test_a_file_that_is_replaced_or_deleted_does_not_change_a_run(tmp_path: Path) -> None:
    path = write(tmp_path, b"a fox\na dog\n")
    captions = opened(path)
    write(tmp_path, b"a cat\n", "new.txt").rename(path)
    path.unlink()
    assert texts(captions) == ["a fox", "a dog"]


def test_files_close_with_what_holds_them(tmp_path: Path) -> None:
    path = write(tmp_path, b"a fox\na dog\n")

    def is_open() -> bool:
        return any(found.resolve() == path for found in Path("/proc/self/fd").iterdir())

    captions = opened(path)
    assert is_open()
    captions.close()
    assert not is_open()
    captions = opened(path)
    del captions
    assert not is_open()


def test_threads_may_share_captions(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    expected = [f"caption {number}" for number in range(2000)]
    captions = opened(write(tmp_path, "\n".join(expected).encode()))

    def read(seed: int) -> bool:
        rows = random.Random(seed).choices(range(2000), k=4000)
        return all(captions.caption(row).text == expected[row] for row in rows)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))
