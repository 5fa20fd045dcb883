"""Lists of concepts."""

from pathlib import Path

import pytest

from penstock.consumer.prompts.concept_list import Concept, read_concepts
from penstock.protocol.errors import ConfigError


def test_a_list_has_a_concept_a_line_with_its_spellings(tmp_path: Path) -> None:
    path = tmp_path / "concepts.txt"
    path.write_bytes(b"\xef\xbb\xbf# animals\r\n\r\ncat | cats|  kitty  cat \r\nhot dog\n")
    assert read_concepts(path) == (
        Concept("cat", ("cat", "cats", "kitty cat")),
        Concept("hot dog", ("hot dog",)),
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "names no concept; write one a line"),
        (b"# nothing\n\n", "names no concept"),
        (b"cat\ndog|\n", r":2: 'dog\|' has an empty spelling"),
        (b"cat|kitty\ndog\nlion|Kitty\n", r":3: 'Kitty' stands in line 1 too"),
        (b"cat\n\xff\n", "is not UTF-8 at byte 4"),
    ],
)
def test_a_list_that_cannot_serve_is_refused_in_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "concepts.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_concepts(path)
    assert str(caught.value).startswith(f"prompts.concepts: {path}")
    assert "\n" not in str(caught.value)


def test_a_missing_list_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^prompts\.concepts: cannot read .*: No such file or directory$"):
        read_concepts(tmp_path / "none.txt")
