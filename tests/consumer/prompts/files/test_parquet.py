"""Captions in Parquet files and in Hugging Face's data sets."""

import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.protocol.errors import ConfigError
from tests.consumer.prompts.files.opened import opened, tagged, texts, write


@pytest.fixture(autouse=True)
def _cache_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return path


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_a_column_of_any_kind_of_text_is_read(kind: pa.DataType, tmp_path: Path) -> None:
    values = ["a red fox", " a dog\tin\r\nsnow ", "a café"] * 3
    path = parquet(tmp_path / "a.parquet", url=list(range(9)), caption=pa.array(values).cast(kind))
    captions = opened(path)
    assert texts(captions) == ["a red fox", "a dog in  snow", "a café"] * 3
    assert captions.concepts == ()


def test_concepts_are_names_or_numbers(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", label=["fox", "dog"], caption=["a fox", "a dog"])
    assert tagged(opened(path)) == [("fox", "a fox"), ("dog", "a dog")]
    path = parquet(tmp_path / "a.parquet", label=[7, 3], caption=["a fox", "a dog"])
    assert tagged(opened(path)) == [("7", "a fox"), ("3", "a dog")]
    path = parquet(tmp_path / "a.parquet", kind=[7, 3], alt=["a fox", "a dog"], caption=["x", "y"])
    assert tagged(opened(path, caption_column="alt", concept_column="kind")) == [("7", "a fox"), ("3", "a dog")]


def test_shards_are_read_in_order_with_the_columns_of_the_first(tmp_path: Path) -> None:
    for number in (1, 0):
        parquet(tmp_path / f"{number}.parquet", text=[f"a {number}", f"b {number}"])
    assert texts(opened(tmp_path)) == ["a 0", "b 0", "a 1", "b 1"]
    parquet(tmp_path / "2.parquet", caption=["c"])
    with pytest.raises(ConfigError, match=r"2\.parquet has no column 'text'; its columns are caption"):
        opened(tmp_path)


MALFORMED = [
    (None, "fox", "the caption is missing, empty or not UTF-8"),
    ("\u3000\x1c", "fox", "the caption is missing, empty or not UTF-8"),
    ("é" * 4097, "fox", "the caption is longer than 8192 bytes"),
    ("a fox", None, "the concept is missing, or too long"),
    ("a fox", " ", "the concept is missing, or too long"),
]


@pytest.mark.parametrize(("caption", "concept", "why"), MALFORMED)
def test_malformed_rows_are_named_by_file_and_row(
    caption: str | None, concept: str | None, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    captions, concepts = [f"caption {number}" for number in range(6)], ["x", "y"] * 3
    captions.insert(4, caption)  # type: ignore[arg-type]
    concepts.insert(4, concept)  # type: ignore[arg-type]
    path = parquet(tmp_path / "a.parquet", caption=captions, concept=concepts)
    with pytest.raises(ConfigError, match=rf"^prompts\.source: {path}: row 5: {why}; mend it, or leave such rows out"):
        opened(path)
    assert tagged(opened(path, malformed="skip")) == [("xy"[n % 2], f"caption {n}") for n in range(6)]
    assert caplog.messages[0] == f"left out: {path}: row 5: {why}"


def test_bytes_that_are_not_utf_8_are_malformed(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", caption=pa.array([b"a fox", b"caf\xe9", b"a dog"], pa.binary()))
    with pytest.raises(ConfigError, match=r"row 2: the caption is missing, empty or not UTF-8"):
        opened(path)
    assert texts(opened(path, malformed="skip")) == ["a fox", "a dog"]


def test_files_that_cannot_serve_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^prompts\.source: .*a\.parquet cannot be read as Parquet: [^\n]*$"):
        opened(write(tmp_path, b"a fox\n", "a.parquet"))
    with pytest.raises(ConfigError, match=r"column 'caption' of .* holds list<.*>, not text$"):
        opened(parquet(tmp_path / "b.parquet", caption=[["a", "b"]]))
    with pytest.raises(ConfigError, match=r"has no captions; write one a line$"):
        opened(parquet(tmp_path / "c.parquet", caption=pa.array([], pa.string())))
    with pytest.raises(ConfigError, match=r"3 of 4 rows are malformed, the first is .*d\.parquet: row 2: "):
        opened(parquet(tmp_path / "d.parquet", caption=["a", "", "", ""]), malformed="skip")


def test_a_file_that_is_damaged_inside_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [f"caption number {number}" for number in range(20_000)]
    pq.write_table(pa.table({"caption": rows}), path, compression="snappy")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = b"\xa5" * 2000
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^prompts\.source: {path} cannot be read as Parquet: (?!None)[^\n]+$"):
        opened(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_two_columns_of_one_name_are_refused(name: str, tmp_path: Path) -> None:
    table = pa.table([["a fox"], ["a dog"]], names=["caption", "caption"])
    if name == "a.csv":
        write(tmp_path, b"caption,caption\na fox,a dog\n", name)
    else:
        pq.write_table(table, tmp_path / name)
    with pytest.raises(ConfigError, match=r"has 2 columns 'caption'; give each its name$"):
        opened(tmp_path / name)


@pytest.mark.parametrize(("package", "source"), [("pyarrow", "a.parquet"), ("datasets", "hf:x")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    package: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, b"", "a.parquet")
    monkeypatch.setitem(sys.modules, package, None)
    where = source if source.startswith("hf:") else str(tmp_path / source)
    with pytest.raises(ConfigError, match=rf"need.* {package}: pip install 'penstock\[data\]'$"):
        opened(where)


def test_the_digest_is_of_the_captions_and_of_nothing_else(tmp_path: Path) -> None:
    a = opened(parquet(tmp_path / "a.parquet", caption=["a fox", "a dog"], width=[1, 2]))
    b = opened(parquet(tmp_path / "b.parquet", caption=["a fox", "a dog"], width=[3, 4]))
    c = opened(parquet(tmp_path / "c.parquet", caption=["a fox", "a cat"], width=[1, 2]))
    assert a.digest == b.digest != c.digest


def test_no_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    captions = opened(parquet(tmp_path / "a.parquet", caption=["a fox", "a dog"]))
    assert list(folder.iterdir()) == []
    assert texts(captions) == ["a fox", "a dog"]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=r"cannot be kept in .*; set TMPDIR to a folder with room for them$"):
        opened(tmp_path / "a.parquet")


@given(values=st.lists(st.text(max_size=10), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back_without_white_space_around_it(
    values: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    ends = str.maketrans("\r\n\t", "   ")
    expected = [value.strip().translate(ends) for value in values if value.strip()]
    if len(expected) * 2 < len(values):
        return
    path = parquet(tmp_path_factory.mktemp("any") / "a.parquet", caption=pa.array(values, pa.string()))
    assert texts(opened(path, malformed="skip")) == expected


# --- Hugging Face's ------------------------------------------------------------------------------------------------


def made(words: list[str]) -> datasets.Dataset:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["cold", "warm"])}
    )
    rows = {"text": words, "label": [number % 2 for number in range(len(words))]}
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_saved_set_has_its_captions_and_the_names_of_its_classes(tmp_path: Path) -> None:
    made(["snow", "sand", "ice"]).save_to_disk(tmp_path / "saved")
    for source in (str(tmp_path / "saved"), f"hf:{tmp_path / 'saved'}"):
        assert tagged(opened(source)) == [("cold", "snow"), ("warm", "sand"), ("cold", "ice")]


def test_a_set_that_was_shuffled_reads_its_own_rows(tmp_path: Path) -> None:
    made(["a", "b", "c"]).select([2, 0]).save_to_disk(tmp_path / "saved")
    assert texts(opened(tmp_path / "saved")) == ["c", "a"]


def test_a_split_is_named_behind_the_set(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    datasets.DatasetDict(train=made(["snow"]), test=made(["sand", "ice"])).save_to_disk(folder)
    assert texts(opened(f"hf:{folder}:test")) == ["sand", "ice"]
    with pytest.raises(ConfigError, match=rf"has no split 'val'; there is train, test; write hf:{folder}:SPLIT$"):
        opened(f"hf:{folder}:val")
    with pytest.raises(ConfigError, match=r"has several splits; there is train, test; write "):
        opened(folder)


def test_a_set_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> datasets.DatasetDict:
        if name != "someone/birds":
            raise FileNotFoundError(f"{name} is not on the Hub\nnor here")
        return datasets.DatasetDict(train=made(["snow"]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert texts(opened("hf:someone/birds")) == ["snow"]
    assert texts(opened("hf:someone/birds:train")) == ["snow"]
    with pytest.raises(ConfigError, match=r"^prompts\.source: hf:fish does not load: fish is not on the Hub$"):
        opened("hf:fish")
    with pytest.raises(ConfigError, match=r"hf: must be followed by the name of a data set"):
        opened("hf:")


def test_the_names_of_classes_travel_with_a_parquet_file_of_theirs(tmp_path: Path) -> None:
    made(["snow", "sand"]).to_parquet(tmp_path / "a.parquet")
    assert tagged(opened(tmp_path / "a.parquet")) == [("cold", "snow"), ("warm", "sand")]
