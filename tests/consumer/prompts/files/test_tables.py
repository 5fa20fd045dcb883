"""Captions in columns of CSV, TSV and JSONL files."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.consumer.prompts.files import indexed_file
from penstock.protocol.errors import ConfigError
from tests.consumer.prompts.files.opened import opened, tagged, texts, write

ROWS = [("fox", "a red fox"), ("dog", 'a "good" dog, in snow'), ("fox", "a fox at night")]


def _csv(rows: list[tuple[str, ...]], **style: str) -> bytes:
    out = io.StringIO()
    csv.writer(out, **style).writerows(rows)  # type: ignore[arg-type]
    return out.getvalue().encode()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("A.CSV", ","), ("a.tsv", "\t")])
def test_cells_are_quoted_as_rfc_4180_says(name: str, separator: str, end: str, tmp_path: Path) -> None:
    content = _csv([("concept", "caption"), *ROWS], delimiter=separator, lineterminator=end)
    for mark in (b"", b"\xef\xbb\xbf"):
        assert tagged(opened(write(tmp_path, mark + content, name))) == ROWS


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\t"])
def test_a_line_end_in_a_caption_becomes_white_space(line_end: str, tmp_path: Path) -> None:
    caption = f"a fox{line_end}in the snow"
    content = _csv([("caption",), (caption,), ("a dog",)])
    found = texts(opened(write(tmp_path, content, "a.csv")))
    assert [" ".join(text.split()) for text in found] == ["a fox in the snow", "a dog"]
    assert not {"\n", "\r", "\t"} & set("".join(found))
    lines = "\n".join(json.dumps({"caption": text}) for text in (caption, "a dog")).encode()
    assert texts(opened(write(tmp_path, lines, "a.jsonl"))) == found


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    assert texts(opened(write(tmp_path, b"\ncaption\n\na fox\n\n\na dog\n\n", "a.csv"))) == ["a fox", "a dog"]
    lines = b'\n{"caption": "a fox"}\n \n\n{"caption": "a dog"}\n\n'
    assert texts(opened(write(tmp_path, lines, "a.jsonl"))) == ["a fox", "a dog"]


def test_the_last_row_needs_no_line_end(tmp_path: Path) -> None:
    assert texts(opened(write(tmp_path, b'caption\na fox\n"a dog"', "a.csv"))) == ["a fox", "a dog"]
    assert texts(opened(write(tmp_path, b'{"caption": "a fox"}', "a.jsonl"))) == ["a fox"]


@pytest.mark.parametrize(
    ("header", "caption", "concept"),
    [
        (("id", "caption", "label"), 1, 2),
        (("Text", "Class", "url"), 0, 1),
        (("class", "prompt", "text"), 2, 0),
        (("url", "caption", "note"), 1, None),
    ],
)
def test_columns_are_found_by_their_usual_names(
    header: tuple[str, ...], caption: int, concept: int | None, tmp_path: Path
) -> None:
    rows = [("a", "b", "c"), ("d", "e", "f")]
    expected = [(row[concept] if concept is not None else "", row[caption]) for row in rows]
    assert tagged(opened(write(tmp_path, _csv([header, *rows]), "a.csv"))) == expected
    lines = "\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in rows)
    assert tagged(opened(write(tmp_path, lines.encode(), "a.jsonl"))) == expected


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, _csv([("caption", "alt", "kind"), ("a", "b", "c"), ("d", "e", "f")]), "a.csv")
    assert tagged(opened(path, caption_column="alt", concept_column="kind")) == [("c", "b"), ("f", "e")]
    assert len({opened(path, caption_column=name).digest for name in ("caption", "alt", "kind")}) == 3


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_columns_that_are_not_there_are_refused_with_those_that_are(name: str, tmp_path: Path) -> None:
    content = b"url,alt\nx,a fox\n" if name == "a.csv" else b'{"url": "x", "alt": "a fox"}\n'
    path = write(tmp_path, content, name)
    with pytest.raises(ConfigError, match=r"has no column of captions \(caption, text, .*; its columns are url, alt; "):
        opened(path)
    with pytest.raises(ConfigError, match=r"^prompts\.caption_column: .* has no column 'x'; its columns are url, alt$"):
        opened(path, caption_column="x")
    with pytest.raises(ConfigError, match=r"^prompts\.concept_column: .* has no column 'x'; its columns are url, alt$"):
        opened(path, caption_column="alt", concept_column="x")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"caption\n", "has no captions"),
        ("a.jsonl", b"a fox\na dog\n", "is not JSONL; write one object a line"),
        ("a.json", b'[\n{"caption": "a fox"\n}\n]\n', "is not JSONL; write one object a line"),
        ("a.csv", b'"caption\n', "the header of .* cannot be read: unexpected end of data"),
        ("a.csv", b"caption\xe9\na fox\n", "the header of .* is not UTF-8"),
    ],
)
def test_a_table_that_cannot_serve_is_refused_in_one_line(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"^prompts\.source: .*{words}[^\n]*$"):
        opened(write(tmp_path, content, name))


def test_json_may_name_concepts_by_numbers(tmp_path: Path) -> None:
    lines = b'{"caption": "a", "label": 10}\n{"caption": "b", "label": "x"}\n{"caption": "c", "label": 10}\n'
    captions = opened(write(tmp_path, lines, "a.jsonl"))
    assert tagged(captions) == [("10", "a"), ("x", "b"), ("10", "c")]
    with pytest.raises(ConfigError, match=r"a\.jsonl:4: 'label' is no text: 'True'"):
        opened(write(tmp_path, lines + b'{"caption": "d", "label": true}\n', "a.jsonl"))


@pytest.mark.parametrize("blank", ["", " "])
def test_a_table_with_concepts_has_one_in_every_row(blank: str, tmp_path: Path) -> None:
    rows = [("concept", "caption"), *ROWS, (blank, "a cat")]
    with pytest.raises(ConfigError, match=r"a\.csv:5: the concept is empty"):
        opened(write(tmp_path, _csv(rows, lineterminator="\n"), "a.csv"))


def test_what_is_not_utf_8_in_another_column_spoils_no_caption(tmp_path: Path) -> None:
    path = write(tmp_path, b"caption,author\na fox,Ren\xe9\na dog,Ann\n", "a.csv")
    assert texts(opened(path)) == ["a fox", "a dog"]


# --- several files -------------------------------------------------------------------------------------------------


def test_a_folder_or_a_pattern_means_its_files_in_sorted_order(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        write(tmp_path, b"text,label\na %d,x\nb %d,y\n" % (number, number), f"part-{number}.csv")
    write(tmp_path, b"", "part-3.csv")
    expected = [(name, f"{letter} {number}") for number in range(3) for name, letter in (("x", "a"), ("y", "b"))]
    for spec in (tmp_path, tmp_path / "part-*.csv", tmp_path / "part-{0..3}.csv"):
        captions = opened(spec)
        assert tagged(captions) == expected
        assert captions.digest == opened(tmp_path).digest
    assert opened(tmp_path / "part-[01].csv").digest != opened(tmp_path).digest


def test_files_of_two_formats_are_refused(tmp_path: Path) -> None:
    write(tmp_path, b"caption\na fox\n", "a.csv")
    write(tmp_path, b"read me\n", "README.txt")
    with pytest.raises(
        ConfigError, match=r"has files of several formats \(\.csv, \.txt\); name those of one, such as "
    ):
        opened(tmp_path)
    assert texts(opened(tmp_path / "*.csv")) == ["a fox"]


def test_later_files_have_the_columns_of_the_first(tmp_path: Path) -> None:
    write(tmp_path, b"text\na fox\n", "a.csv")
    write(tmp_path, b"label,text\nx,a dog\n", "b.csv")
    assert texts(opened(tmp_path)) == ["a fox", "a dog"]
    write(tmp_path, b"caption\na cat\n", "c.csv")
    with pytest.raises(ConfigError, match=r"c\.csv has no column 'text'; its columns are caption"):
        opened(tmp_path)


# --- against Python's own readers ----------------------------------------------------------------------------------

CELL = st.text(st.sampled_from('ab ,"\n\r\té\u3000'), min_size=1, max_size=12)


@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=20), chunk=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_chunks_of_any_size_give_the_rows_that_python_reads(
    rows: list[tuple[str, str]], chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [row for row in rows if row[1].strip()]
    if not rows:
        return
    folder = tmp_path_factory.mktemp("tables")
    expected = [text.strip().replace("\r", " ").replace("\n", " ").replace("\t", " ") for _, text in rows]
    content = _csv([("id", "caption"), *rows])
    lines = "\n".join(json.dumps({"id": first, "caption": text}) for first, text in rows).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexed_file, "_CHUNK_BYTES", chunk)
        assert texts(opened(write(folder, content, "a.csv"))) == expected
        assert texts(opened(write(folder, lines, "a.jsonl"))) == expected
