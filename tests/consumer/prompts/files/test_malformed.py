"""Rows that are no captions: counted, named by file and line, left out or the end of the run."""

import logging
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from penstock.consumer.prompts.files import indexed_file
from penstock.protocol.errors import ConfigError
from tests.consumer.prompts.files.opened import opened, tagged, texts, write

GOOD = b"".join(b"caption %d\n" % number for number in range(20))
GOOD_TAGGED = GOOD.replace(b"caption", b"fox\tcaption")
GOOD_CSV = b"id,caption\n" + b"".join(b"%d,caption %d\n" % (number, number) for number in range(20))
GOOD_JSON = b"".join(b'{"caption": "caption %d"}\n' % number for number in range(20))

CASES = {
    "not UTF-8": ("captions.txt", GOOD, b"caf\xe9 au lait", "it is not UTF-8 at byte 3 of the line"),
    "too long": ("captions.txt", GOOD, b"x" * 8193, "the caption is longer than 8192 bytes"),
    "too long by its bytes": ("captions.txt", GOOD, "é".encode() * 4097, "the caption is longer than 8192 bytes"),
    "10 MB": ("captions.txt", GOOD, b"x" * 10_000_000, "it is longer than 1048576 bytes, or a quote is not closed"),
    "a tab": ("captions.txt", GOOD, b"fox\ta fox", "it has a tab, the first line has none"),
    "no tab": ("captions.txt", GOOD_TAGGED, b"a fox", "'a fox' is not CONCEPT<tab>CAPTION, the first is"),
    "no caption": ("captions.txt", GOOD_TAGGED, b"fox\t ", "'fox' is not CONCEPT<tab>CAPTION, the first is"),
    "only wide blanks": ("captions.txt", GOOD_TAGGED, "fox\t\u3000".encode(), "'fox' is not CONCEPT<tab>CAPTION"),
    "no concept": ("captions.txt", GOOD_TAGGED, b"\ta fox", "'a fox' is not CONCEPT<tab>CAPTION, the first is"),
    "an empty cell": ("captions.csv", GOOD_CSV, b"7, ", "the caption is empty"),
    "cells missing": ("captions.csv", GOOD_CSV, b"7", "it has 1 cells, the header has 2"),
    "cells to spare": ("captions.csv", GOOD_CSV, b"7,a fox, red", "it has 3 cells, the header has 2"),
    "an open quote": ("captions.csv", GOOD_CSV, b'7,"a fox', "a quote is not closed"),
    "behind a quote": ("captions.csv", GOOD_CSV, b'7,"a fox" red', "',' expected after '\"'"),
    "a cell in Latin-1": ("captions.csv", GOOD_CSV, b"7,caf\xe9", "the caption is not UTF-8"),
    "no JSON": ("captions.jsonl", GOOD_JSON, b'{"caption": "a fox"', "it is not JSON: Expecting"),
    "no object": ("captions.jsonl", GOOD_JSON, b'"a fox"', "it is no object"),
    "two objects": ("captions.jsonl", GOOD_JSON, b'{"caption": "a"},{"caption": "b"}', "it is not JSON: Extra data"),
    "nested too deep": ("captions.jsonl", GOOD_JSON, b"[" * 100_000, "it is not JSON: "),
    "no field": ("captions.jsonl", GOOD_JSON, b'{"text": "a fox"}', "'caption' is missing"),
    "null": ("captions.jsonl", GOOD_JSON, b'{"caption": null}', "'caption' is missing"),
    "a number": ("captions.jsonl", GOOD_JSON, b'{"caption": 7}', "'caption' is no text: '7'"),
    "half a pair": ("captions.jsonl", GOOD_JSON, rb'{"caption": "\ud800"}', "the caption is not UTF-8"),
    "JSON in Latin-1": ("captions.jsonl", GOOD_JSON, b'{"caption": "caf\xe9"}', "it is not UTF-8 at byte 16"),
    "JSON of 10 MB": ("captions.jsonl", GOOD_JSON, b'{"caption": "' + b"x" * 10_000_000 + b'"}', "it is longer than"),
}


@pytest.fixture(params=[pytest.param(case, id=name) for name, case in CASES.items()])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, int, str]:
    """A file with one malformed row in its midst, the row's line, and what is wrong with it."""
    name, good, row, why = request.param
    lines = good.splitlines(keepends=True)
    middle = len(lines) // 2
    path = write(tmp_path, b"".join([*lines[:middle], row, b"\n", *lines[middle:]]), name)
    return path, middle + 1, why


def test_a_malformed_row_stops_a_run_before_it_begins_and_is_named(case: tuple[Path, int, str]) -> None:
    path, line, why = case
    with pytest.raises(ConfigError) as caught:
        opened(path)
    message = str(caught.value)
    assert message.startswith(f"prompts.source: {path}:{line}: {why}")
    assert message.endswith("; mend it, or leave such rows out by --prompts.malformed skip")
    assert "\n" not in message
    assert "more)" not in message


def test_a_malformed_row_is_left_out_where_that_is_asked_for(
    case: tuple[Path, int, str], caplog: pytest.LogCaptureFixture
) -> None:
    path, line, why = case
    with caplog.at_level(logging.WARNING):
        captions = opened(path, malformed="skip")
    assert texts(captions) == [f"caption {number}" for number in range(20)]
    assert captions.concept_codes is None or len(captions.concept_codes) == 20
    assert caplog.messages[0].startswith(f"left out: {path}:{line}: {why}")
    assert caplog.messages[1:] == ["1 malformed rows are left out of the prompts"]


def test_rows_behind_a_malformed_one_are_numbered_by_their_lines(tmp_path: Path) -> None:
    content = (
        b'id,caption\n1,"a fox\nin two lines"\n\n2\r\n' + b"".join(b"%d,x %d\n" % (n, n) for n in range(9)) + b"3\n"
    )
    with pytest.raises(ConfigError, match=r"captions\.csv:5: .* \(and 1 more\)"):
        opened(write(tmp_path, content, "captions.csv"))


def test_the_log_names_five_and_counts_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, (GOOD + b"\xff\n") * 30)
    with caplog.at_level(logging.WARNING):
        captions = opened(path, malformed="skip")
    assert len(captions) == 600
    assert [f"{path}:{21 * (number + 1)}:" in caplog.messages[number] for number in range(5)] == [True] * 5
    assert caplog.messages[5:] == ["30 malformed rows are left out of the prompts"]


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("times", [11, 20_000])
def test_a_file_that_is_mostly_malformed_is_no_file_of_captions(times: int, policy: str, tmp_path: Path) -> None:
    path = write(tmp_path, b"a fox\n" * 10 + b"\xff\n" * times)
    with pytest.raises(ConfigError, match=rf"{path}: \d+ of \d+ rows are malformed, the first is {path}:11: it is not"):
        opened(path, malformed=policy)


def test_a_large_file_of_something_else_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path, b"a fox\n" + b"\xff\n" * 600_000)
    with pytest.raises(ConfigError) as caught:
        opened(path, malformed="skip")
    assert int(str(caught.value).split(": ")[2].split(" of ")[0]) < 500_000


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_line_numbers_do_not_hang_on_where_chunks_end(chunk: int, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(indexed_file, "_CHUNK_BYTES", chunk)
    with pytest.raises(ConfigError, match=r"captions\.txt:4: it is not UTF-8"):
        opened(write(tmp_path, b"a fox\r\n\r\na dog\r\n\xff\r\na cat\r\n"))


def test_long_malformed_rows_are_not_read_with_their_neighbours(tmp_path: Path) -> None:
    path = write(tmp_path, b"a fox\n" + (b"x" * 300_000 + b"\n" + b"a dog\n") * 7)
    captions = opened(path, malformed="skip")
    tracemalloc.start()
    assert texts(captions) == ["a fox", *["a dog"] * 7]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_half_of_a_file_may_be_malformed(tmp_path: Path) -> None:
    assert len(opened(write(tmp_path, b"a fox\n" * 10 + b"\xff\n" * 10), malformed="skip")) == 10


def test_one_stray_quote_does_not_swallow_a_file(tmp_path: Path) -> None:
    """It stands in the first row of many; the quotes of others are in order."""
    rows = [b'%d,"caption, %d"\n' % (number, number) for number in range(30_000)]
    path = write(tmp_path, b'id,caption\n7,"a fox\n' + b"".join(rows), "captions.csv")
    captions = opened(path, malformed="skip")
    assert texts(captions)[:2] + texts(captions)[-1:] == ["caption, 0", "caption, 1", "caption, 29999"]
    assert len(captions) == 30_000


def test_a_quote_within_a_cell_is_only_a_quote(tmp_path: Path) -> None:
    path = write(tmp_path, b'id,caption\n1,a 5" nail\n2,"two\nlines"\n3,a 6" nail\n4,a fox\n', "captions.csv")
    assert texts(opened(path)) == ['a 5" nail', "two lines", 'a 6" nail', "a fox"]


def test_malformed_rows_between_good_ones_are_passed_over_in_any_order(tmp_path: Path) -> None:
    """Blocks whose rows are not their lines are read another way."""
    lines = []
    for number in range(400):
        lines += [b"\xff" * 3] * (number % 3 == 0) + [b""] * (number % 5 == 0) + [b"fox\tcaption %d" % number]
    captions = opened(write(tmp_path, b"fox\tfirst\n" + b"\n".join(lines)), malformed="skip")
    expected = ["first", *(f"caption {number}" for number in range(400))]
    assert [captions.caption(row).text for row in reversed(range(401))] == expected[::-1]
    assert {concept for concept, _ in tagged(captions)} == {"fox"}


def test_a_line_of_many_megabytes_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    with path.open("wb") as file:
        file.write(GOOD)
        for _ in range(60):
            file.write(b"x" * 1_000_000)
        file.write(b"\n" + GOOD)
    tracemalloc.start()
    captions = opened(path, malformed="skip")
    assert texts(captions) == [f"caption {number}" for number in range(20)] * 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000


def test_a_quote_left_open_before_a_long_malformed_row_swallows_none_behind_it(tmp_path: Path) -> None:
    for before in range(200, 204):  # wherever in a block of rows it stands
        rows = [b"caption", *[b"one"] * before, b'"two', b'x" ' + b"x" * 100_000, b"three", b'four"', b"five", b""]
        captions = opened(write(tmp_path, b"\n".join(rows), "a.csv"), malformed="skip")
        assert texts(captions)[before:] == ["three", 'four"', "five"]
