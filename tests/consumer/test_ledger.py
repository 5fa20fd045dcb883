"""The ledger: whole after every step and every kill, taken back with the run, small, and one line where it fails."""

import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.consumer import ledger_schema
from penstock.consumer.group import Group, Quarantined
from penstock.consumer.ledger import Ledger
from penstock.consumer.ledger_reader import LedgerReader, read_steps
from penstock.consumer.ledger_schema import pack, unpack
from penstock.protocol.errors import RunError
from penstock.protocol.tickets import Manifest, Recipe, Ticket, group_seed, prompt_id
from tests.protocol.samples import MANIFEST

LIFE = {"life": 17, "rank": 0, "world_size": 1, "run_id": "r", "seed": 0, "images_per_use": 4}
NAME = "ledger-0.sqlite"


def a_group(
    index: int, prompt: str, producer: str = "local-0", manifest: Manifest = MANIFEST, stand_in: int = 0, crc32: int = 0
) -> Group:
    recipe = Recipe(
        prompt=prompt,
        seed=group_seed(0, prompt_id(prompt), index),
        num_images=4,
        guidance_scales=(2.0,),
        num_inference_steps=8,
        scheduler="default",
        height=8,
        width=8,
        model_digest="d" * 64,
    )
    ticket = Ticket(index=index, rank=0, stand_in=stand_in, recipe=recipe)
    return Group(ticket, np.zeros(recipe.shape, np.uint8), producer, manifest, crc32=crc32)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The folder of a run without a ledger."""
    (tmp_path / "run.json").write_text("{}")
    return tmp_path


def _rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """As anybody's tool would ask it."""
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def _write(path: Path, steps: Sequence[Sequence[int]], first_step: int = 0) -> None:
    """Steps that use these groups, each of which comes just before its first use."""
    met: set[int] = set()
    with Ledger(path, LIFE) as ledger:
        for step, indices in enumerate(steps, first_step):
            for index in sorted({*indices} - met):
                ledger.group(a_group(index, f"a fox in den {index % 3}"))
            met.update(indices)
            ledger.step(step, indices)
        ledger.sync()


def test_anybody_s_tools_can_ask_it(run_dir: Path) -> None:
    with Ledger(run_dir / NAME, LIFE) as ledger:
        ledger.group(a_group(5, "a “quoted” fox\u2028of two lines", crc32=2**32 - 1), "a fox")
        ledger.step(3, [5])
    ((idx, prompt, concept, producer, crc32, recipe),) = _rows(
        run_dir / NAME, "SELECT idx, prompt, concept, producer, crc32, recipe FROM made"
    )
    assert (idx, prompt, concept, producer, crc32) == (
        5, "a “quoted” fox\u2028of two lines", "a fox", "local-0", 2**32 - 1,
    )  # fmt: skip
    assert json.loads(str(recipe))["num_inference_steps"] == 8
    assert _rows(run_dir / NAME, "SELECT json_extract(settings, '$.life') FROM lives") == [(17,)]


def test_what_is_shared_stands_once(run_dir: Path) -> None:
    other = replace(MANIFEST, device="NVIDIA H100")
    for life in range(2):
        with Ledger(run_dir / NAME, LIFE | {"life": life}) as ledger:
            for index in range(10 * life, 10 * life + 10):
                ledger.group(
                    a_group(index, f"fox {index % 3}", f"ann-{index % 2}", (MANIFEST, other)[index % 2]), "fox"
                )
            ledger.step(life, list(range(10 * life, 10 * life + 10)))
    counts = {table: _rows(run_dir / NAME, f"SELECT count(*) FROM {table}")[0][0] for table in ledger_schema.TABLES}
    assert counts == {
        "lives": 2, "recipes": 1, "manifests": 2, "producers": 2, "concepts": 1, "prompts": 3, "groups": 20,
        "steps": 2, "quarantined": 0,
    }  # fmt: skip


def test_a_producer_that_comes_back_as_another_engine_is_told_apart(run_dir: Path) -> None:
    lossy = replace(MANIFEST, codec="jpeg-95")
    with Ledger(run_dir / NAME, LIFE) as ledger:
        for index, manifest in enumerate([MANIFEST, lossy, MANIFEST]):
            ledger.group(a_group(index, "a fox", manifest=manifest))
        ledger.step(0, [0])
    with LedgerReader(run_dir) as reader:
        assert [group.manifest for group in reader.groups()] == [MANIFEST, lossy, MANIFEST]


def test_what_came_with_a_step_is_on_record_after_it_and_nothing_else_is(run_dir: Path) -> None:
    ledger = Ledger(run_dir / NAME, LIFE)
    try:
        ledger.group(a_group(0, "a fox"))
        assert read_steps(run_dir) == {}
        ledger.step(0, [0])
        assert read_steps(run_dir) == {0: (0,)}, "of a file that is still being written"
        ledger.group(a_group(1, "a dog"))
    finally:
        ledger.close()
    assert _rows(run_dir / NAME, "SELECT idx FROM groups") == [(0,)], "no step has used the other"


def test_a_quarantined_group_and_its_stand_in_are_on_record(run_dir: Path) -> None:
    poison, stand_in = a_group(5, "a poisonous fox").ticket, a_group(5, "a fox", stand_in=1)
    with Ledger(run_dir / NAME, LIFE) as ledger:
        ledger.group(stand_in)
        ledger.quarantined(Quarantined(poison, "its producer vanished", stand_in.ticket))
        ledger.step(2, [5])
    with LedgerReader(run_dir) as reader:
        (record,) = reader.quarantined()
        (group,) = reader.groups()
    assert (record.index, record.step, record.stand_in, record.prompt) == (5, 2, 1, "a poisonous fox")
    assert record.reason == "its producer vanished"
    assert (group.index, group.stand_in, group.recipe) == (5, 1, stand_in.ticket.recipe)


def test_a_step_that_uses_what_has_not_come_is_refused(run_dir: Path) -> None:
    with Ledger(run_dir / NAME, LIFE) as ledger, pytest.raises(ValueError, match="uses group 7, which has not come"):
        ledger.step(0, [7])


def test_no_step_stands_twice(run_dir: Path) -> None:
    _write(run_dir / NAME, [[0]])
    with pytest.raises(RunError, match=r"ledger-0\.sqlite cannot be written: UNIQUE constraint failed: steps\.step"):
        _write(run_dir / NAME, [[0]])


def test_a_group_that_was_met_long_ago_is_still_found(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.consumer.ledger._MIN_GROUPS", 3)
    _write(run_dir / NAME, [[0, 1], [2, 3], [4, 5], [0, 5], [1, 0]])
    assert read_steps(run_dir) == {0: (0, 1), 1: (2, 3), 2: (4, 5), 3: (0, 5), 4: (0, 1)}


def test_prompts_in_one_slot_are_told_apart_and_cost_a_row_each_time(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.consumer.known_prompts._MASK", 0)
    with Ledger(run_dir / NAME, LIFE) as ledger:
        for index, prompt in enumerate(["a fox", "a fox", "A Fox", "a fox"]):
            ledger.group(a_group(index, prompt))
        ledger.step(0, [0])
    with LedgerReader(run_dir) as reader:
        assert [group.recipe.prompt for group in reader.groups()] == ["a fox", "a fox", "A Fox", "a fox"]
    assert _rows(run_dir / NAME, "SELECT count(*), count(DISTINCT prompt_id) FROM prompts") == [(3, 1)]


def test_what_is_known_by_heart_does_not_grow(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.consumer.ledger._MIN_GROUPS", 3)
    with Ledger(run_dir / NAME, LIFE, capacity_groups=5) as ledger:
        for step in range(100):
            ledger.group(a_group(step, "a fox"))
            ledger.step(step, [step])
        assert len(ledger._group_rows) == 4 * 5


# --- going back -------------------------------------------------------------------------------------------------------


def test_a_rewound_ledger_is_what_it_was_at_the_mark(run_dir: Path) -> None:
    path = run_dir / NAME
    with Ledger(path, LIFE) as ledger:
        ledger.group(a_group(0, "a fox"), "fox")
        ledger.step(0, [0])
        marks = ledger.marks
        ledger.sync()
        before = list(sqlite3.connect(path).iterdump())
        ledger.group(a_group(1, "a dog", "bob"), "dog")
        ledger.quarantined(Quarantined(a_group(1, "poison").ticket, "why", a_group(1, "a dog", stand_in=1).ticket))
        ledger.step(1, [1])
    with Ledger(path, LIFE | {"life": 18}) as ledger:
        ledger.step(2, [0])
    ledger_schema.rewind(path, json.loads(json.dumps(marks)))
    assert list(sqlite3.connect(path).iterdump()) == before
    _write(path, [[0, 1]], first_step=1)
    assert read_steps(run_dir) == {0: (0,), 1: (0, 1)}


@pytest.mark.parametrize("damage", ["missing", "shorter", "cut", "scribbled", "not SQLite"])
def test_a_ledger_that_has_lost_something_is_one_line(damage: str, run_dir: Path) -> None:
    path = run_dir / NAME
    _write(path, [list(range(10 * step, 10 * step + 10)) for step in range(40)])
    with Ledger(path, LIFE) as ledger:
        marks = ledger.marks
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "shorter":
        marks |= {"steps": 40}
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "scribbled":
        path.write_bytes(content[:8192] + b"\xff" * 3 * 4096 + content[8192 + 3 * 4096 :])
    else:
        path.write_bytes(b"life\n" * 1000)
    words = {"missing": "is missing", "shorter": "ends at row 39 of steps, at the checkpoint it had 40"}
    with pytest.raises(RunError, match=words.get(damage, "damaged|malformed|not a database")) as caught:
        ledger_schema.rewind(path, marks)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_another_version_s_ledger_and_another_program_s_file_are_one_line(run_dir: Path) -> None:
    _write(run_dir / NAME, [[0]])
    db = sqlite3.connect(run_dir / NAME)
    db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(RunError, match="is a ledger of version 9, not 1"):
        LedgerReader(run_dir)
    db = sqlite3.connect(run_dir / NAME)
    db.execute("PRAGMA application_id = 5")
    db.close()
    with pytest.raises(RunError, match="no ledger"):
        Ledger(run_dir / NAME, LIFE)


# --- kills and full disks ---------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from penstock.consumer.ledger import Ledger
from tests.consumer.test_ledger import LIFE, a_group

groups_per_step, stop = 5, int(sys.argv[2])
with Ledger(Path(sys.argv[1]), LIFE) as ledger:
    for step in range(stop):
        indices = range(groups_per_step * step, groups_per_step * step + groups_per_step)
        for index in indices:
            ledger.group(a_group(index, f"a fox in den {index}", f"ann-{index % 7}"))
        ledger.step(step, indices)
        print("step", step, flush=True)
        if step % 20 == 19:
            ledger.sync()
            print("sync", step, flush=True)
"""


def _writer(path: Path, num_steps: int = 10**6, **options: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(num_steps)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **options,  # type: ignore[call-overload]
    )


def test_a_killed_writer_leaves_every_step_whole(run_dir: Path) -> None:
    """Killed at whatever instant a number of lines has been heard; the file is then gone on with."""
    rng = random.Random(0)
    for life in range(3):
        path = run_dir / f"ledger-{life}.sqlite"
        writer = _writer(path)
        assert writer.stdout
        heard = [writer.stdout.readline().split() for _ in range(rng.randrange(1, 90))]
        writer.send_signal(signal.SIGKILL)
        heard += [line.split() for line in writer.stdout if line.endswith("\n")]
        writer.wait()
        done = max(int(step) for word, step in heard if word == "step")
        rows = dict(_rows(path, "SELECT step, last_group FROM steps"))
        assert done < len(rows) <= done + 2, "what was said to be done is there, and at most what was begun"
        assert rows == {step: 5 * step + 5 for step in range(len(rows))}
        assert _rows(path, "SELECT count(*), count(DISTINCT prompt) FROM groups") == [(5 * len(rows), 5 * len(rows))]
        assert _rows(path, "SELECT count(*) FROM made") == [(5 * len(rows),)], "with all that they refer to"
        assert _rows(path, "PRAGMA quick_check") == [("ok",)]
    steps = read_steps(run_dir)
    assert steps[0] == (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4)


SUICIDE = """
import os, signal, sys
from pathlib import Path
from penstock.consumer.ledger import Ledger
from tests.consumer.test_ledger import LIFE, a_group

class Deadly:
    def __init__(self, db):
        self.db = db

    def __getattr__(self, name):
        return getattr(self.db, name)

    def die(self, statement):
        if step == 2 and sys.argv[2] in statement:
            os.kill(os.getpid(), signal.SIGKILL)

    def execute(self, statement, *values):
        self.die(statement)
        return self.db.execute(statement, *values)

    def executemany(self, statement, rows):
        self.die(statement)
        return self.db.executemany(statement, rows)

ledger = Ledger(Path(sys.argv[1]), LIFE)
ledger._db = Deadly(ledger._db)
for step in range(5):
    for index in (2 * step, 2 * step + 1):
        ledger.group(a_group(index, f"a fox in den {index}"))
    ledger.step(step, [2 * step, 2 * step + 1])
"""


@pytest.mark.parametrize("instant", ["BEGIN", "INTO prompts", "INTO groups", "INTO steps", "COMMIT"])
def test_a_writer_killed_within_a_step_leaves_nothing_of_it(instant: str, run_dir: Path) -> None:
    path = run_dir / NAME
    done = subprocess.run([sys.executable, "-c", SUICIDE, str(path), instant], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert _rows(path, "SELECT step, last_group FROM steps") == [(0, 2), (1, 4)]
    assert _rows(path, "SELECT (SELECT count(*) FROM groups), (SELECT count(*) FROM prompts)") == [(4, 4)]
    _write(path, [[8, 9]], first_step=2)
    assert read_steps(run_dir) == {0: (0, 1), 1: (2, 3), 2: (8, 9)}


def test_after_sync_all_of_it_lies_in_the_file_itself(run_dir: Path, tmp_path: Path) -> None:
    """A power cut may take the log that is not on the disk; a copy of the file alone is what it leaves."""
    path, saved = run_dir / NAME, tmp_path / "saved" / NAME
    saved.parent.mkdir()
    (saved.parent / "run.json").touch()
    with Ledger(path, LIFE) as ledger:
        for step in range(30):
            ledger.group(a_group(step, "a fox"))
            ledger.step(step, [step])
        ledger.sync()
        saved.write_bytes(path.read_bytes())
    assert len(read_steps(saved.parent)) == 30


def test_a_reader_in_the_middle_does_not_hold_up_sync_and_the_log_is_on_the_disk(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run_dir / NAME
    synced: list[str] = []
    fsync = os.fsync

    def sync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    with Ledger(path, LIFE) as ledger:
        ledger.group(a_group(0, "a fox"))
        ledger.step(0, [0])
        reader = ledger_schema.open_for_reading(path)
        cursor = reader.execute("SELECT step FROM steps UNION ALL SELECT 1")
        assert cursor.fetchone() == (0,)
        monkeypatch.setattr(os, "fsync", sync)
        ledger.step(1, [0])
        ledger.sync()
        assert synced == [f"{path}-wal"]
        reader.close()
        ledger.step(2, [0])
    assert len(read_steps(run_dir)) == 3


def test_a_step_waits_as_long_for_a_lock_after_a_sync_as_before_it(run_dir: Path) -> None:
    with Ledger(run_dir / NAME, LIFE) as ledger:
        ledger.group(a_group(0, "a fox"))
        ledger.step(0, [0])
        before = ledger._db.execute("PRAGMA busy_timeout").fetchone()
        ledger.sync()
        assert ledger._db.execute("PRAGMA busy_timeout").fetchone() == before


def test_what_an_interrupted_rollback_left_goes_with_its_ledger(run_dir: Path) -> None:
    """SQLite would roll the pages of a journal that is found beside a new file of the same name back into that."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        (run_dir / f"{NAME}{suffix}").touch()
    ledger_schema.remove(run_dir / NAME)
    assert list(run_dir.glob(f"{NAME}*")) == []


def test_a_full_disk_is_one_line(run_dir: Path) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    writer = _writer(run_dir / NAME, preexec_fn=little_room)
    output, errors = writer.communicate(timeout=60)
    done = int(output.splitlines()[-1].split()[1])
    last = errors.splitlines()[-1]
    assert last.startswith("penstock.protocol.errors.RunError: ")
    assert "ledger-0.sqlite cannot be written: " in last
    assert "disk" in last
    assert list(read_steps(run_dir)) == list(range(done + 1)), "what came before is whole"


def test_a_folder_where_no_file_can_be_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written: unable to open database file"):
        Ledger(tmp_path / "none" / NAME, LIFE)


# --- size -------------------------------------------------------------------------------------------------------------

WORDS = [word for word in Path(__file__).read_text().split() if word.isalpha()]


def _caption(number: int) -> str:
    """60 to 100 characters, as captions of pictures have."""
    rng = random.Random(number)
    length, text = rng.randint(60, 100), str(number)
    while len(text) < length:
        text += f" {rng.choice(WORDS)}"
    return text[:length].strip()


@pytest.mark.parametrize("reuse", [1, 24])
@pytest.mark.parametrize("num_prompts", [100, None])
def test_a_group_costs_at_most_200_bytes_where_its_pixels_are_100_kb(
    reuse: int, num_prompts: int | None, run_dir: Path
) -> None:
    groups_per_step, capacity, num_groups = 64, 1024, 8192
    rng, pool, uses, nexts = random.Random(0), list[int](), dict[int, int](), iter(range(num_groups))
    with Ledger(run_dir / NAME, LIFE) as ledger:
        for step in range(num_groups * reuse // groups_per_step):
            while len(pool) < capacity and (index := next(nexts, None)) is not None:
                pool.append(index)
                prompt = _caption(index % num_prompts if num_prompts else index)
                ledger.group(a_group(index, prompt, f"ann-{index % 8}", crc32=rng.getrandbits(32)), f"c{index % 50}")
            indices = rng.sample(pool, min(groups_per_step, len(pool)))
            ledger.step(step, indices)
            for index in indices:
                uses[index] = uses.get(index, 0) + 1
            pool = [index for index in pool if uses.get(index, 0) < reuse]
        ledger.sync()
        files = [path.stat().st_size for path in run_dir.glob("ledger*") if not path.name.endswith("-shm")]
    num_uses = sum(uses.values()) / num_groups
    assert num_uses > 0.95 * reuse
    assert sum(files) / num_groups <= 200


@pytest.mark.parametrize(
    ("numbers", "packed"),
    [
        ([], "00"),
        ([0], "e0 00"),
        ([5, 3], "02 1d"),  # 101 and 011, low bits first: 101110, and two bits that are too few for a number
        ([1] * 9, "e0 ff 01"),
        ([255], "07 ff"),
        ([256, 0], "08 00 01 00"),
        ([2**32 - 1, 7, 0], "1f ff ff ff ff 07 00 00 00 00 00 00 00"),
    ],
)
def test_numbers_are_packed_into_as_few_bits_as_hold_the_largest(numbers: list[int], packed: str) -> None:
    assert pack(numbers).hex(" ") == packed
    assert unpack(bytes.fromhex(packed)).tolist() == numbers


@given(st.lists(st.integers(0, 2**32 - 1)) | st.lists(st.integers(0, 40)))
def test_packed_numbers_come_back(numbers: list[int]) -> None:
    num_bits = max(1, max(numbers, default=0).bit_length())
    assert len(pack(numbers)) == 1 + -(-len(numbers) * num_bits // 8)
    assert unpack(pack(numbers)).tolist() == numbers
