"""The run folder's rules: never overwritten or continued by accident, and nothing else ever deleted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.consumer import run_folder
from penstock.protocol.errors import RunError


def _run(path: Path, *, overwrite: bool = False, resume: bool = False) -> run_folder.RunFolder:
    return run_folder.prepare(path, overwrite=overwrite, resume=resume)


def _with_checkpoint(path: Path) -> run_folder.RunFolder:
    folder = _run(path)
    folder.checkpoint.mkdir()
    (folder.checkpoint / run_folder.CHECKPOINT_STATE).write_text("{}")
    return folder


def test_a_new_run_gets_a_folder_and_a_name(tmp_path: Path) -> None:
    folder = _run(tmp_path / "deep" / "run")
    assert folder.path.is_dir()
    assert folder.run_id
    assert run_folder.read(folder.path) == folder
    assert _run(tmp_path / "other").run_id != folder.run_id


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert _run(tmp_path).path == tmp_path


def test_a_run_is_not_overwritten_without_the_flag(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    folder.summary.write_text("{}")
    with pytest.raises(RunError, match=r"not empty; pass --overwrite, --resume, or another --run-dir"):
        _run(folder.path)
    assert folder.summary.read_text() == "{}"
    assert run_folder.read(folder.path) == folder


def test_overwrite_begins_anew(tmp_path: Path) -> None:
    folder = _with_checkpoint(tmp_path / "run")
    again = _run(folder.path, overwrite=True)
    assert [path.name for path in folder.path.iterdir()] == ["run.json"]
    assert again.run_id != folder.run_id
    assert again.incarnation > folder.incarnation


def test_overwrite_deletes_nothing_that_is_not_a_run(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not a run"):
        _run(home, overwrite=True)
    assert (home / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_folders_place_is_kept(overwrite: bool, tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_text("precious")
    with pytest.raises(RunError) as caught:
        _run(file, overwrite=overwrite)
    assert "\n" not in str(caught.value)
    assert file.read_text() == "precious"


def test_a_place_where_no_folder_can_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be a run folder"):
        _run(tmp_path / "file" / "run")


def test_resume_needs_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint to resume"):
        _run(tmp_path / "missing", resume=True)
    assert not (tmp_path / "missing").exists()
    folder = _run(tmp_path / "run")
    with pytest.raises(RunError, match="no checkpoint to resume"):
        _run(folder.path, resume=True)


def test_resume_keeps_the_name_and_everything_else_in_a_later_life(tmp_path: Path) -> None:
    folder = _with_checkpoint(tmp_path / "run")
    folder.ledger(0).write_text("line\n")
    again = _run(folder.path, resume=True)
    assert again.run_id == folder.run_id
    assert again.incarnation > folder.incarnation
    assert folder.ledger(0).read_text() == "line\n"


def test_a_run_killed_between_two_checkpoints_resumes_from_the_earlier(tmp_path: Path) -> None:
    folder = _with_checkpoint(tmp_path / "run")
    folder.checkpoint.rename(folder.path / run_folder.PREVIOUS)
    _run(folder.path, resume=True)
    assert (folder.checkpoint / run_folder.CHECKPOINT_STATE).is_file()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"run_id": "x"}', '{"run_id": "x", "incarnation": null}'])
def test_a_broken_identity_is_one_line(content: str, tmp_path: Path) -> None:
    folder = _with_checkpoint(tmp_path / "run")
    (folder.path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json is missing or broken"):
        _run(folder.path, resume=True)


def test_image_files_are_found_wherever_they_lie_but_the_picture_is_not_counted(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    folder.picture.write_bytes(b"x" * 100)
    (folder.path / "ledger-0.sqlite").write_text("line\n")
    assert folder.image_bytes() == 0
    (folder.path / "deep").mkdir()
    (folder.path / "deep" / "leak.PNG").write_bytes(b"x" * 7)
    (folder.path / "deep" / "leak.npy").write_bytes(b"x" * 5)
    (folder.path / "deep" / "picture.png").write_bytes(b"x" * 3)
    assert folder.image_bytes() == 15
    # A tracker keeps what it is shown; that was asked for, and is no leak of the stream's.
    (folder.tracking / "media").mkdir(parents=True)
    (folder.tracking / "media" / "groups.png").write_bytes(b"x" * 9)
    assert folder.image_bytes() == 15


def test_the_identity_is_plain_json(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    identity = json.loads((folder.path / "run.json").read_text())
    assert identity == {"run_id": folder.run_id, "incarnation": folder.incarnation, "endpoint": ""}


def test_overwrite_deletes_only_what_a_run_writes(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run_folder.prepare(path, overwrite=False, resume=False)
    (path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"holds 'thesis\.tex', which no run writes"):
        run_folder.prepare(path, overwrite=True, resume=False)
    assert (path / "thesis.tex").read_text() == "years of work"
    (path / "thesis.tex").unlink()
    (path / "encoder").mkdir()
    (path / "tracking").mkdir()
    for suffix in ("", "-wal", "-shm", "-journal"):
        (path / f"ledger-0.sqlite{suffix}").touch()
    run_folder.prepare(path, overwrite=True, resume=False)
    assert [entry.name for entry in path.iterdir()] == ["run.json"]


def test_a_later_life_has_a_larger_incarnation_though_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    first = run_folder.prepare(path, overwrite=False, resume=False)
    (path / "checkpoint").mkdir()
    (path / "checkpoint" / run_folder.CHECKPOINT_STATE).touch()
    monkeypatch.setattr("time.time_ns", lambda: 5)
    assert run_folder.prepare(path, overwrite=False, resume=True).incarnation == first.incarnation + 1


def test_a_folder_has_one_trainer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with run_folder.lock(path):
        with pytest.raises(RunError, match=r"another trainer is running in .*run; .*--run-dir"), run_folder.lock(path):
            pass
        folder = run_folder.prepare(path, overwrite=False, resume=False)
    with run_folder.lock(path):
        run_folder.prepare(path, overwrite=True, resume=False)
        with pytest.raises(RunError, match="another trainer"), run_folder.lock(path):
            pass
    assert sorted(entry.name for entry in folder.path.iterdir()) == ["run.json", "run.lock"]


def test_a_killed_trainer_leaves_the_folder_free(tmp_path: Path) -> None:
    source = (
        "import sys, pathlib; from penstock.consumer import run_folder\n"
        "with run_folder.lock(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", source, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match="another trainer"), run_folder.lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate(timeout=10)
    with run_folder.lock(tmp_path):
        pass


def test_a_lock_alone_does_not_make_a_folder_taken(tmp_path: Path) -> None:
    with run_folder.lock(tmp_path):
        run_folder.check(tmp_path, overwrite=False, resume=False)
        assert _run(tmp_path).path == tmp_path
