"""The ledger's reader: recipes that remake what came, uses as they were, filters, and all ranks and lives as one."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.consumer import ledger_file, ledger_schema
from penstock.consumer.group import Group
from penstock.consumer.ledger import Ledger
from penstock.consumer.ledger_reader import LedgerReader, read_steps
from penstock.consumer.ledger_schema import marks_of, rewind
from penstock.consumer.schedule import images_of_use
from penstock.protocol.errors import RunError
from tests.consumer.test_ledger import LIFE, a_group
from tests.protocol.samples import MANIFEST


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Two lives: ranks 0 and 1 make steps 0 and 1 of groups 0 to 5; then rank 0 alone step 2, with 3 and 4 again."""
    (tmp_path / "run.json").write_text("{}")
    prompts = ["a red fox", "A  Red FOX", "a dog", "a hound", "a red fox", "a fish"]
    ranks = [Ledger(tmp_path / f"ledger-{rank}.sqlite", LIFE | {"rank": rank}) for rank in range(2)]
    for step, indices in enumerate([[0, 2, 1, 3], [4, 0, 5, 3]]):
        for index in indices:
            ledger = ranks[index % 2]
            if index not in (0, 3) or step == 0:
                ledger.group(
                    a_group(index, prompts[index], f"ann-{index % 2}", crc32=index), prompts[index].split()[-1]
                )
        for rank, ledger in enumerate(ranks):
            ledger.step(step, [index for index in indices if index % 2 == rank])
    for ledger in ranks:
        ledger.close()
    with Ledger(tmp_path / "ledger-0.sqlite", LIFE | {"images_per_use": 2}) as ledger:
        for index in (3, 4, 6):
            ledger.group(a_group(index, [*prompts, "a bird"][index], "bob", crc32=index))
        ledger.step(2, [4, 6, 3])
    return tmp_path


def _written(run_dir: Path, *groups: Group) -> LedgerReader:
    (run_dir / "run.json").write_text("{}")
    with Ledger(run_dir / "ledger-0.sqlite", LIFE) as ledger:
        for group in groups:
            ledger.group(group)
        ledger.step(0, [groups[0].ticket.index])
    return LedgerReader(run_dir)


def test_a_recipe_comes_back_as_it_was(tmp_path: Path) -> None:
    group = a_group(2**62, "a “quoted” fox\u2028of two lines", crc32=2**32 - 1)
    other = replace(group.ticket.recipe, guidance_rescale=0.7, native_height=64, native_width=32, model_digest="e" * 64)
    real = replace(group, ticket=replace(group.ticket, index=7, attempt=3, recipe=other))
    with _written(tmp_path, group, real) as ledger:
        found = list(ledger.groups())
    assert [each.recipe for each in found] == [other, group.ticket.recipe]
    assert [(each.index, each.attempt, each.crc32) for each in found] == [(7, 3, 2**32 - 1), (2**62, 0, 2**32 - 1)]
    assert found[0].manifest == MANIFEST


def test_each_group_has_its_own_guidance_scales(tmp_path: Path) -> None:
    scales = [(2.0,), (7.125,), (0.0, 1.001, 100.0, 2.5), (2.0,)]
    groups = []
    for index, given in enumerate(scales):
        group = a_group(index, "a fox")
        recipe = replace(group.ticket.recipe, guidance_scales=given)
        groups.append(replace(group, ticket=replace(group.ticket, recipe=recipe)))
    with _written(tmp_path, *groups) as ledger:
        assert [group.recipe.guidance_scales for group in ledger.groups()] == scales


def test_what_a_filter_chose_is_remade_without_it(tmp_path: Path) -> None:
    group = a_group(0, "a fox")
    asked = replace(
        group.ticket.recipe, guidance_scales=(1.0, 2.0, 3.0, 4.0), scorer_digest="e1", min_score=0.25,
        num_candidates=6, max_candidates=500,
    )  # fmt: skip
    chosen = (0, 5, 2, 300)
    filtered = replace(
        group, ticket=replace(group.ticket, recipe=asked), candidates=chosen, num_made=301, num_unsatisfied=2
    )
    with _written(tmp_path, filtered) as ledger:
        (found,) = ledger.groups()
    assert found.recipe == asked.choose(chosen)
    assert found.recipe.guidance_scales == (1.0, 2.0, 3.0, 1.0), "of image c mod 4"
    assert not found.recipe.is_filtered
    assert (found.num_made, found.num_unsatisfied) == (301, 2)


def test_a_step_is_what_all_ranks_used_in_the_order_of_their_batches(run_dir: Path) -> None:
    with LedgerReader(run_dir) as ledger:
        assert ledger.steps == range(3)
        uses = [ledger.uses(step) for step in range(3)]
    assert [[use.group.index for use in used] for used in uses] == [[0, 2, 1, 3], [4, 0, 5, 3], [4, 6, 3]]
    assert [[use.echo for use in used] for used in uses] == [[0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 2]], "over all lives"
    assert [use.group.producer for use in uses[2]] == ["bob"] * 3, "who made what the step was given"
    assert uses[1][0].images == (0, 1, 2, 3)
    assert uses[2][2].images == tuple(images_of_use(0, 3, 2, 4, 2)), "as its life was told to take"


def test_each_index_is_given_once_as_it_first_came(run_dir: Path) -> None:
    with LedgerReader(run_dir) as ledger:
        groups = list(ledger.groups())
        assert ledger.num_groups == 7
    assert [group.index for group in groups] == list(range(7))
    assert [group.rank for group in groups] == [0, 1, 0, 1, 0, 1, 0]
    assert [group.first_step for group in groups] == [0, 0, 0, 0, 1, 1, 2]
    assert [group.producer for group in groups] == ["ann-0", "ann-1", "ann-0", "ann-1", "ann-0", "ann-1", "bob"]


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [
        ({"step": 1}, [0, 3, 4, 5]),
        ({"prompt": "a red fox"}, [0, 1, 4]),
        ({"prompt": "A RED fox "}, [0, 1, 4]),
        ({"prompt": "hou"}, [3]),
        ({"prompt": "ED FO"}, [0, 1, 4]),
        ({"prompt": "%"}, []),
        ({"producer": "bob"}, [3, 4, 6]),
        ({"producer": "ann-1", "step": 1}, [3, 5]),
        ({"concept": "dog"}, [2]),
        ({"index": 4}, [4]),
        ({"among": {0, 3, 99}}, [0, 3]),
        ({"index": 99}, []),
        ({"producer": "nobody"}, []),
    ],
)
def test_groups_are_found_by_what_is_known_of_them(
    wanted: dict[str, object], indices: list[int], run_dir: Path
) -> None:
    with LedgerReader(run_dir) as ledger:
        assert [group.index for group in ledger.groups(**wanted)] == indices  # type: ignore[arg-type]


def test_steps_that_are_read_a_few_at_a_time_are_all_read_once(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "_STEPS_AT_ONCE", 1)
    with LedgerReader(run_dir) as ledger:
        assert ledger.steps_of([0, 3, 6]) == {0: [0, 1], 3: [0, 1, 2], 6: [2]}
        assert ledger.use_counts()[1].tolist() == [2, 1, 1, 3, 2, 1, 1]


def test_a_step_beyond_the_ledger_is_one_line_with_its_range(run_dir: Path) -> None:
    with LedgerReader(run_dir) as ledger:
        with pytest.raises(RunError, match=r"step 3 is not in the ledger of .*, which has steps 0 to 2"):
            ledger.uses(3)
        with pytest.raises(RunError, match="step -1 is not"):
            list(ledger.groups(step=-1))


def test_what_comes_meanwhile_is_seen(run_dir: Path) -> None:
    with LedgerReader(run_dir) as ledger, Ledger(run_dir / "ledger-0.sqlite", LIFE) as writer:
        groups = ledger.groups()
        assert next(groups).index == 0
        writer.group(a_group(8, "a cat"))
        writer.step(3, [8])
        writer.sync()
        assert [group.index for group in groups] == [1, 2, 3, 4, 5, 6], "the answer to what was asked before"
        assert [group.index for group in ledger.groups(step=3)] == [8]
        assert ledger.uses(3)[0].group.first_step == 3


@pytest.mark.parametrize("last_step", [0, -1])
def test_a_resume_between_two_looks_is_one_line(last_step: int, run_dir: Path) -> None:
    with LedgerReader(run_dir) as ledger:
        file = ledger._files[1]
        rows = file.used(1)
        marks = ledger_schema.NO_ROWS if last_step < 0 else {**marks_of(run_dir / "ledger-1.sqlite"), "steps": 0}
        rewind(run_dir / "ledger-1.sqlite", marks)
        with pytest.raises(RunError, match=r"ledger-1\.sqlite has lost row 3 while it was read: the run was resumed"):
            file.first_step(max(rows))


def test_what_is_no_run_or_has_no_ledger_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not the folder of a run: it is not there$"):
        LedgerReader(tmp_path / "none")
    with pytest.raises(RunError, match=r"is not the folder of a run: it has no run\.json$"):
        LedgerReader(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").touch()
    with pytest.raises(RunError, match=r"it has no run\.json; those in it are mine$"):
        LedgerReader(tmp_path)  # a folder too high
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match="has no ledger"):
        LedgerReader(tmp_path)
    (tmp_path / "ledger-0.sqlite").write_bytes(b"")
    assert read_steps(tmp_path) == {}, "one that is only being begun"
    with pytest.raises(RunError, match="has no ledger"):
        LedgerReader(tmp_path)
    (tmp_path / "ledger-0.sqlite").write_bytes(b"life\n" * 100)
    with pytest.raises(RunError, match=r"ledger-0\.sqlite cannot be read: file is not a database"):
        LedgerReader(tmp_path)


def test_a_file_that_was_cut_is_one_line(run_dir: Path) -> None:
    path = run_dir / "ledger-0.sqlite"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"ledger-0\.sqlite cannot be read: ") as caught, LedgerReader(run_dir) as ledger:
        list(ledger.groups())
    assert "\n" not in str(caught.value)


def test_a_file_alone_in_a_folder_where_nothing_can_be_written_is_read(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root every folder can be written; so the first opening is made to fail as it would."""
    import sqlite3

    for path in [*run_dir.glob("*-wal"), *run_dir.glob("*-shm")]:
        path.unlink()
    connect = sqlite3.connect

    def refuse(name: str, **options: object) -> sqlite3.Connection:
        if name.endswith("mode=ro"):
            raise sqlite3.OperationalError("unable to open database file")
        return connect(name, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(sqlite3, "connect", refuse)
    with LedgerReader(run_dir) as ledger:
        assert ledger.num_groups == 7
    for rank in range(2):
        (run_dir / f"ledger-{rank}.sqlite-wal").touch()  # as readers leave it
    with LedgerReader(run_dir) as ledger:
        assert ledger.num_groups == 7
    (run_dir / "ledger-1.sqlite-wal").write_text("what the file lacks")
    with pytest.raises(RunError, match=r"ledger-1\.sqlite cannot be read: unable to open database file"):
        LedgerReader(run_dir)


def test_to_read_a_ledger_loads_no_torch() -> None:
    source = "import sys, penstock.consumer.ledger_reader; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0
