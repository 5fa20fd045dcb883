"""`penstock attribute`: an image's own group comes first, vectors are kept and gone on with, mistakes are one line."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from penstock.consumer.evaluation.preprocessing import Preprocessing
from penstock.consumer.group import Group
from penstock.consumer.ledger import Ledger
from penstock.consumer.ledger_file import LedgerGroup
from penstock.consumer.ledger_reader import LedgerReader
from penstock.deploy import attribute, embeddings, nearest
from penstock.deploy.cli import dispatch
from penstock.deploy.embeddings import EmbeddingStore, embed_groups, sample
from penstock.deploy.remaking import Remade
from penstock.protocol.errors import ConfigError, RunError
from tests.consumer.test_ledger import LIFE, a_group

DIM = 48
KEY = {"run_id": "r", "encoder": "e1", "dim": DIM}


def _pixels(group: LedgerGroup) -> NDArray[np.uint8]:
    """What the group's images are: noise of its seed."""
    return np.random.default_rng(group.recipe.seed).integers(0, 256, group.recipe.shape, np.uint8)


class PaintedRemaker:
    """Remakes groups as noise; counts them."""

    def __init__(self) -> None:
        self.remade: list[int] = []

    def remake(self, groups: Iterator[LedgerGroup]) -> Iterator[Remade]:
        for group in groups:
            self.remade.append(group.index)
            yield Remade(group, _pixels(group), True)

    def __enter__(self) -> "PaintedRemaker":
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def embed(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """A fixed projection, made 1 long: as far from the pixels as a small encoder is."""
    flat = np.stack([image[:8, :8].reshape(-1) / 127.5 - 1 for image in images])
    projected = flat @ np.random.default_rng(0).standard_normal((flat.shape[1], DIM))
    return np.asarray(projected / np.linalg.norm(projected, axis=1, keepdims=True), np.float32)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Sixty groups, of which steps use ten at a time, each twice."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "run.json").write_text('{"run_id": "r", "incarnation": 1}')
    with Ledger(run_dir / "ledger-0.sqlite", LIFE) as ledger:
        for step in range(12):
            indices = range(10 * (step % 6), 10 * (step % 6) + 10)
            for index in indices if step < 6 else ():
                group = a_group(index, f"a fox in den {index % 7}", f"ann-{index % 2}")
                ledger.group(Group(group.ticket, group.images, group.producer, group.manifest), "fox")
            ledger.step(step, indices)
    return run_dir


@pytest.fixture
def store(run_dir: Path) -> EmbeddingStore:
    return _embedded(run_dir)


def _embedded(run_dir: Path, among: set[int] | None = None) -> EmbeddingStore:
    store = EmbeddingStore(run_dir / "embeddings", KEY, DIM)
    with LedgerReader(run_dir) as ledger:
        embed_groups(PaintedRemaker().remake(ledger.groups(among=among)), embed, store)
    return store


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


# --- what is found ----------------------------------------------------------------------------------------------------


def test_an_image_of_the_run_finds_its_own_group_and_itself(run_dir: Path, store: EmbeddingStore) -> None:
    """Recall at 1 of exact copies: every image of every group."""
    remaker = PaintedRemaker()
    with LedgerReader(run_dir) as ledger:
        for group in ledger.groups(among=set(range(0, 60, 7))):
            for number, image in enumerate(_pixels(group)):
                found = attribute.attribute(image, 3, ledger, remaker, embed, store)  # type: ignore[arg-type]
                assert [found[0].group.index, found[0].image] == [group.index, number]
                assert found[0].similarity == pytest.approx(1, abs=1e-5)
                assert len(found) == 3
                assert found[0].similarity > found[1].similarity >= found[2].similarity
                assert found[0].steps == [group.index // 10, group.index // 10 + 6]
                assert np.array_equal(found[0].images, _pixels(group))


def test_the_order_is_that_of_all_images_compared_at_full_precision(run_dir: Path, store: EmbeddingStore) -> None:
    query = np.random.default_rng(9).integers(0, 256, (8, 8, 3), np.uint8)
    with LedgerReader(run_dir) as ledger:
        cosines = {g.index: float((embed(list(_pixels(g))) @ embed([query])[0]).max()) for g in ledger.groups()}
        found = attribute.attribute(query, 10, ledger, PaintedRemaker(), embed, store)  # type: ignore[arg-type]
    expected = sorted(cosines, key=lambda index: -cosines[index])[:10]
    assert [each.group.index for each in found] == expected
    assert [each.similarity for each in found] == pytest.approx([cosines[index] for index in expected], abs=1e-6)


@pytest.mark.parametrize("block_bytes", [1, 4 * DIM * 50, 1 << 26])
@pytest.mark.parametrize("num", [1, 7, 1000])
def test_the_nearest_vectors_are_those_of_a_full_sort(
    block_bytes: int, num: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "_BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((237, DIM)).astype(np.float16)
    query = rng.standard_normal(DIM).astype(np.float32)
    products, rows = nearest.nearest(vectors, query, num)
    exact = vectors.astype(np.float64) @ query
    assert rows.tolist() == np.argsort(-exact, kind="stable")[:num].tolist()
    assert products == pytest.approx(exact[rows], rel=1e-5, abs=1e-4)


@pytest.mark.skipif(not nearest.has_faiss(), reason="needs faiss")
def test_faiss_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(2).standard_normal((500, DIM)).astype(np.float16)
    query = vectors[77].astype(np.float32)
    by_faiss = nearest.nearest(vectors, query, 20)
    monkeypatch.setattr(nearest, "has_faiss", lambda: False)
    by_numpy = nearest.nearest(vectors, query, 20)
    assert by_faiss[1].tolist() == by_numpy[1].tolist()
    assert by_faiss[1][0] == 77


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_vectors_are_kept_mapped_and_small(run_dir: Path, store: EmbeddingStore) -> None:
    again = EmbeddingStore(run_dir / "embeddings", KEY, DIM)
    assert not again.is_stale
    assert again.indices.tolist() == list(range(60))
    assert isinstance(again.vectors, np.memmap)
    assert (again.vectors.dtype, again.vectors.shape) == (np.float16, (240, DIM))
    with LedgerReader(run_dir) as ledger:
        expected = embed([image for group in ledger.groups() for image in _pixels(group)])
    assert np.abs(again.vectors - expected).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "num_bytes"), [("vectors.f16", 2 * DIM * 5 + 3), ("images.i64", 24 * 2), ("images.i64", 5)]
)
def test_what_a_kill_has_cut_is_made_again_and_nothing_else(name: str, num_bytes: int, run_dir: Path) -> None:
    whole = _embedded(run_dir)
    expected = whole.vectors.tobytes()
    path = run_dir / "embeddings" / name
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - num_bytes)
    cut = EmbeddingStore(run_dir / "embeddings", KEY, DIM)
    kept = cut.indices.tolist()
    assert kept in (list(range(59)), list(range(58)))
    assert len(cut.vectors) == len(cut.images) == 4 * len(kept)
    _embedded(run_dir, among=set(range(60)) - set(kept))
    assert EmbeddingStore(run_dir / "embeddings", KEY, DIM).vectors.tobytes() == expected


def test_two_who_add_at_a_time_do_not_mix_their_rows(run_dir: Path, store: EmbeddingStore) -> None:
    """A second process, held where it has written its vectors and not yet whose they are."""
    program = f"""
import sys
from pathlib import Path
import numpy as np
from penstock.deploy.embeddings import EmbeddingStore
store = EmbeddingStore(Path(sys.argv[1]), {KEY}, {DIM})
path = store._path
def held(name):
    if name == "images.i64":
        print("holds", flush=True)
        input()
    return path(name)
store._path = held
store.append(np.array([[60, 0, 1]]), np.full((1, {DIM}), 2.0))
"""
    first = store.images.tolist()
    command = [sys.executable, "-c", program, str(run_dir / "embeddings")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "holds\n"
        mine = threading.Thread(target=store.append, args=(np.array([[61, 0, 1]]), np.full((1, DIM), 3.0)))
        mine.start()
        mine.join(0.3)
        assert mine.is_alive(), "it waits"
        other.communicate("\n", timeout=30)
        mine.join(30)
    assert store.images.tolist() == [*first, [60, 0, 1], [61, 0, 1]]
    assert store.vectors[-2:, 0].tolist() == [2, 3]


def test_whose_vectors_they_are_is_written_once(run_dir: Path, store: EmbeddingStore) -> None:
    about = run_dir / "embeddings" / "about.json"
    written = about.stat().st_mtime_ns
    again = EmbeddingStore(run_dir / "embeddings", KEY, DIM)
    assert not again.is_stale
    assert about.stat().st_mtime_ns == written
    np.testing.assert_array_equal(again.images, store.images)


def test_another_encoder_s_vectors_are_not_used(run_dir: Path, store: EmbeddingStore) -> None:
    other = EmbeddingStore(run_dir / "embeddings", KEY | {"encoder": "e2"}, DIM)
    assert other.is_stale
    assert len(other.indices) == 0
    (run_dir / "embeddings" / "about.json").write_text("{")
    assert EmbeddingStore(run_dir / "embeddings", KEY, DIM).is_stale


def test_a_larger_sample_holds_a_smaller_one_and_both_are_spread_evenly() -> None:
    indices = np.arange(5, 10_005)
    small, large = sample(indices, 100), sample(indices, 1000)
    assert set(small.tolist()) <= set(large.tolist())
    assert len(set(large.tolist())) == 1000
    assert np.diff(small).max() < 250, "on average 100"
    assert sample(indices, 10**6).tolist() == indices.tolist()


# --- the verb ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def remaker(monkeypatch: pytest.MonkeyPatch) -> PaintedRemaker:
    """The verb without a generator and without weights."""

    remaker = PaintedRemaker()
    encoder = SimpleNamespace(digest="e1", dim=DIM, preprocessing=Preprocessing(size=8))
    monkeypatch.setattr(attribute, "open_remaker", lambda options: remaker)
    monkeypatch.setattr(attribute, "_open_encoder", lambda options: (encoder, embed))
    return remaker


def test_it_tells_and_shows_what_it_found(
    run_dir: Path, remaker: PaintedRemaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LedgerReader(run_dir) as ledger:
        (own,) = ledger.groups(index=17)
    query = _write_png(tmp_path / "query.png", _pixels(own)[2])
    page = tmp_path / "<near>.html"
    assert dispatch(["attribute", str(run_dir), str(query), "--top", "2", "--out", str(page)]) == 0
    captured = capsys.readouterr()
    head, first, second, about = captured.out.splitlines()
    assert head.split("\t") == ["similarity", "group", "image", "seed", "producer", "steps", "prompt"]
    assert first.split("\t") == [
        "1.0000", "17", "2", str(own.recipe.seed), "ann-1", "1 to 7, 2 times", "a fox in den 3",
    ]  # fmt: skip
    assert float(second.split("\t")[0]) < 1
    assert about.startswith("60 groups of 60 compared")
    assert "vectors of 60 of 60 groups" in captured.err
    text = page.read_text()
    assert text.count("<img ") == 1 + 2 * 4
    assert text.count('class="near') == 2
    assert f"seed {own.recipe.seed}" in text
    assert "used in 2 steps: 1, 7" in text
    assert "<near>" not in text

    remaker.remade.clear()
    picture = tmp_path / "near.png"
    assert dispatch(["attribute", str(run_dir), str(query), "--json", "--top", "1", "--out", str(picture)]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["index"], line["image"], line["steps"], line["matches"]) == (17, 2, [1, 7], True)
    assert len(remaker.remade) == 1 + attribute._SPARE, "the vectors were there"
    assert Image.open(picture).size[0] > 300


def test_a_sample_is_enough_where_it_is_asked_for(
    run_dir: Path, remaker: PaintedRemaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = _write_png(tmp_path / "query.png", np.zeros((8, 8, 3), np.uint8))
    assert dispatch(["attribute", str(run_dir), str(query), "--groups", "10"]) == 0
    assert "10 groups of 60 compared" in capsys.readouterr().out
    assert len(EmbeddingStore(run_dir / embeddings.EMBEDDINGS, _key(run_dir), DIM).indices) == 10


def _key(run_dir: Path) -> dict[str, object]:
    key: dict[str, object] = json.loads((run_dir / embeddings.EMBEDDINGS / "about.json").read_text())
    return key


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["none.png"], r"none\.png cannot be read: No such file or directory"),
        (["notes.txt"], r"notes\.txt is not an image: its 5 bytes are no image that Pillow knows"),
        (["query.png", "--top", "0"], "--top must be >= 1, got 0"),
        (["query.png", "--groups", "0"], "--groups must be >= 1, got 0"),
        (["query.png", "--out", "near.gif"], r"--out near\.gif: the name must end in \.html or \.png"),
        (["query.png", "--out", "none/near.png"], r"no such folder: none"),
        (["query.png"], "has no encoder: a run writes it at its end"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    words: list[str], told: str, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _write_png(tmp_path / "query.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(ConfigError, match=told) as caught:
        dispatch(["attribute", str(run_dir), *words])
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        dispatch(["attribute", str(tmp_path), "query.png"])


def test_a_device_that_is_not_there_is_one_line(run_dir: Path, tmp_path: Path) -> None:
    query = _write_png(tmp_path / "query.png", np.zeros((8, 8, 3), np.uint8))
    (run_dir / "encoder").mkdir()
    (run_dir / "encoder" / "config.json").write_text("{}")
    for device in ("abacus", "cuda:99"):
        with pytest.raises(ConfigError, match=rf"^device '{device}' is not there: "):
            dispatch(["attribute", str(run_dir), str(query), "--device", device])


def test_a_folder_that_cannot_be_written_is_one_line(run_dir: Path) -> None:
    (run_dir / "embeddings").write_text("a file")
    with pytest.raises(RunError, match=r"embeddings cannot be used: Not a directory"):
        EmbeddingStore(run_dir / "embeddings", KEY, DIM)
