"""`penstock export`: what other programs find in the files, and an export that was stopped."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.deploy import export
from penstock.deploy.remaking import Remaker
from penstock.imagesets.opening import open_imageset
from penstock.protocol.errors import ConfigError
from penstock.protocol.tickets import image_seed, prompt_id
from tests.deploy.recorded_run import RecordedGroup, RecordedLedger, paced_groups

NUM, SIDE = 12, 128


@pytest.fixture(scope="module")
def groups() -> list[RecordedGroup]:
    """Noise, which no codec makes smaller: about 50 KB an image."""
    return paced_groups(NUM, SIDE)


@pytest.fixture(autouse=True)
def recorded(groups: list[RecordedGroup], monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = RecordedLedger(groups, [[1, 0], [5, 0], [2, 7]])
    monkeypatch.setattr(export, "open_ledger", lambda run_dir: ledger)


def run(out: Path, *argv: str) -> int:
    return export.main(["run", "--out", str(out), *argv])


@pytest.mark.parametrize(("name", "split"), [("webdataset", "train"), ("folder", ""), ("parquet", "train")])
def test_every_format_is_read_as_a_set_of_images_bit_for_bit(
    name: str, split: str, groups: list[RecordedGroup], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert run(out, "--format", name, "--shard-mb", "1") == 0
    assert capsys.readouterr().out.splitlines()[0] == "12 of 12 groups match: 36 images of 12 groups in 2 shards"
    images = open_imageset(str(out), split)
    assert len(images) == 36
    assert list(images.captions[::3]) == [group.recipe.prompt for group in groups]
    assert images.labels is not None
    assert [images.classes[place] for place in images.labels[::3]] == [group.concept for group in groups]
    with Remaker() as remaker:
        made = [image for remade in remaker.remake(groups) for image in remade.images]
    for row in (0, 17, 35):
        np.testing.assert_array_equal(images.image(row), made[row])


def test_a_tar_holds_samples_side_by_side_with_all_that_is_known(groups: list[RecordedGroup], tmp_path: Path) -> None:
    run(tmp_path / "set", "--limit", "1")
    with tarfile.open(tmp_path / "set" / "train-000000.tar") as tar:
        names = tar.getnames()
        about = json.load(tar.extractfile("000000000-01.json"))  # type: ignore[arg-type]
        assert tar.extractfile("000000000-01.txt").read().decode() == groups[0].recipe.prompt  # type: ignore[union-attr]
    keys = ["000000000-00", "000000000-01", "000000000-02"]
    assert names == [f"{key}.{suffix}" for key in keys for suffix in ("png", "txt", "json", "cls")]
    assert about == {
        "prompt_id": prompt_id(groups[0].recipe.prompt),
        "index": 0,
        "step": 0,
        "concept": groups[0].concept,
        "model_digest": groups[0].recipe.model_digest,
        "manifest": groups[0].manifest.digest,
        "producer": "local-0",
        "verified": True,
        "image_in_group": 1,
        "seed": image_seed(groups[0].recipe.seed, 1),
        "guidance_scale": 2.5,
    }


def test_steps_give_the_groups_that_they_used_once_each(groups: list[RecordedGroup], tmp_path: Path) -> None:
    run(tmp_path / "set", "--format", "folder", "--steps", "0:2", "--codec", "jpeg")
    rows = [json.loads(line) for line in (tmp_path / "set" / "metadata.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows[::3]] == [0, 1, 5]
    assert rows[0]["file_name"] == "000000/000000000-00.jpg"
    assert (tmp_path / "set" / rows[0]["file_name"]).read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.parametrize("name", ["webdataset", "folder", "parquet"])
def test_one_that_was_stopped_goes_on_to_the_same_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", "--format", name, "--shard-mb", "1")
    samples = export._samples

    def stopping(remade: Any) -> object:
        if remade.group.index == 9:
            raise KeyboardInterrupt
        return samples(remade)

    with monkeypatch.context() as patched:
        patched.setattr(export, "_samples", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "again", "--format", name, "--shard-mb", "1")
    state = json.loads((tmp_path / "again" / export.STATE).read_text())
    assert (state["num_shards"], state["finished"]) == (1, False)
    assert 0 < state["num_groups"] < 9
    assert run(tmp_path / "again", "--format", name, "--shard-mb", "1") == 0
    files = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "whole", tmp_path / "again")
    ]
    assert files[0] == files[1]


def test_what_an_earlier_try_found_to_differ_still_counts(
    groups: list[RecordedGroup], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [replace(group, crc32=group.crc32 ^ 1) if group.index == 1 else group for group in groups]
    monkeypatch.setattr(export, "open_ledger", lambda run_dir: RecordedLedger(wrong, [[1, 0]]))
    samples = export._samples

    def stopping(remade: Any) -> object:
        if remade.group.index == 9:
            raise KeyboardInterrupt
        return samples(remade)

    with monkeypatch.context() as patched:
        patched.setattr(export, "_samples", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "--shard-mb", "1")
    capsys.readouterr()
    for told in ("36 images of 12 groups in 2 shards", f"{tmp_path} is complete: 36 images in 2 shards"):
        assert run(tmp_path, "--shard-mb", "1") == 1
        line = capsys.readouterr().out.splitlines()[0]
        assert told in line
        assert line.endswith("; 1 group written before differ")


def test_a_folder_with_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="is not empty; name a new folder, or empty it"):
        run(tmp_path)
    run(tmp_path / "set", "--limit", "2")
    with pytest.raises(ConfigError, match=r"holds an export with other settings \(limit 2, now 3\)"):
        run(tmp_path / "set", "--limit", "3")
    assert run(tmp_path / "set", "--limit", "2") == 0


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--steps", "2"], "--steps must be A:B with 0 <= A < B, got '2'"),
        (["--steps", "2:1"], "--steps must be A:B with 0 <= A < B, got '2:1'"),
        (["--steps", "0:9"], "--steps 0:9 is not in the ledger; it has the steps 0:3"),
        (["--shard-mb", "0"], "--shard-mb must be in [1, 1000000], got 0"),
        (["--quality", "101"], "--quality must be in [1, 100], got 101"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], error: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path / "set", *argv)
    assert str(caught.value) == error
    assert not (tmp_path / "set").exists()
