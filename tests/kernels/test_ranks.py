"""Several ranks must compute what one process does with all rows: loss, BatchNorm, and training under DDP.

One set of four gloo processes serves all checks, as starting them costs seconds. Each runs `rank_program` and saves
what it found; the tests compare that with the same arithmetic in this process.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.kernels.backends import Backend
from tests.kernels.rank_program import (
    BACKENDS,
    LOSS_LABELS,
    LOSS_ROWS,
    MEMORY_CHUNK,
    MEMORY_ROWS,
    PROMPT_IDS,
    WORLD_SIZE,
    Network,
    batch_norm,
    losses_and_gradients,
    momentum_loss_and_gradient,
    rows,
    train,
)

pytestmark = pytest.mark.timeout(300)  # importing torch four times on a busy machine

ROOT = Path(__file__).resolve().parents[2]
EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.kernels.rank_program", str(rank), str(folder)], env=environment, cwd=ROOT
        )
        for rank in range(WORLD_SIZE)
    ]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0] * WORLD_SIZE
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(WORLD_SIZE)]


def test_gathered_rows_arrive_bit_for_bit_in_rank_order(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        counts, labels, halves = found["gathered"]
        assert counts == list(LOSS_ROWS[WORLD_SIZE])
        assert torch.equal(labels, LOSS_LABELS)
        assert torch.equal(halves, rows(13, 2, 1).half())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_ranks", LOSS_ROWS)
def test_losses_of_ranks_equal_one_process(ranks: list[dict[str, Any]], num_ranks: int, backend: Backend) -> None:
    expected = losses_and_gradients(1, 0, None)
    found = [of_rank[f"losses of {num_ranks}, {backend}"] for of_rank in ranks[:num_ranks]]
    for name, value in expected.items():
        of_ranks = [of_rank[name] for of_rank in found]
        if name.endswith(": loss"):
            for loss in of_ranks:
                torch.testing.assert_close(loss, value, **EXACT)
        elif name.endswith(": temperature"):
            torch.testing.assert_close(torch.stack(of_ranks).mean(), value, **EXACT)
        elif ": rows" in name:
            # DDP divides by the world size; so do we here.
            torch.testing.assert_close(torch.cat(of_ranks) / num_ranks, value, **EXACT)


@pytest.mark.parametrize("num_ranks", LOSS_ROWS)
def test_the_momentum_loss_of_ranks_equals_one_process(ranks: list[dict[str, Any]], num_ranks: int) -> None:
    expected = momentum_loss_and_gradient(1, 0, None)
    found = [of_rank[f"momentum loss of {num_ranks}"] for of_rank in ranks[:num_ranks]]
    assert expected["rows"].abs().sum() > 0
    # Each rank has its share times the number of ranks: the means are the whole batch's, as DDP forms them.
    torch.testing.assert_close(torch.stack([of_rank["loss"] for of_rank in found]).mean(), expected["loss"], **EXACT)
    torch.testing.assert_close(torch.cat([of_rank["rows"] for of_rank in found]) / num_ranks, expected["rows"], **EXACT)
    for of_rank, num_rows in zip(found, LOSS_ROWS[num_ranks], strict=True):
        assert num_rows or of_rank["loss"] == 0
        assert of_rank["rows"].shape == (num_rows, 6)
        assert of_rank["collectives"].tolist() == [2, 0], "counts and rows; nothing of the teacher travels back"
    assert expected["collectives"].tolist() == [0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_batch_of_one_row_loses_nothing_and_an_empty_one_is_refused(
    ranks: list[dict[str, Any]], num_ranks: int, backend: Backend
) -> None:
    for of_rank in ranks[:num_ranks]:
        found = of_rank[f"few rows of {num_ranks}, {backend}"]
        # log(e^s) - s: who meets nobody else, or but the one positive.
        for case in ("one: images", "one: texts", "no text: images"):
            assert found[case] == pytest.approx((0, 0), abs=1e-5), case
        for case, name in (
            ("no text: texts", "text_features"),
            ("no image: images", "features"),
            ("no image: texts", "image_features"),
            ("none: images", "features"),
            ("none: texts", "image_features"),
        ):
            assert found[case] == f"{name} must have at least one row on some rank, got none", case


def test_no_rank_holds_a_matrix_of_pairs(ranks: list[dict[str, Any]]) -> None:
    for of_rank in ranks[:2]:
        for loss, peak in of_rank["memory"].items():
            # Four columns of tiles; the float32 matrix of a rank's rows by all is eight times as large.
            assert peak < 4 * MEMORY_CHUNK * MEMORY_ROWS * 4, loss


def test_a_loss_gathers_counts_rows_and_normalisers_and_nothing_in_backward(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        for loss in ("images", "texts"):
            assert found[f"losses of {WORLD_SIZE}, chunked"][f"{loss}: collectives"].tolist() == [3, 0]
            assert found["losses alone"][f"{loss}: collectives"].tolist() == [0, 0]


def test_without_a_group_a_rank_is_alone(ranks: list[dict[str, Any]]) -> None:
    expected = losses_and_gradients(1, 0, None)
    for found in ranks:
        torch.testing.assert_close(found["losses alone"], expected, rtol=0, atol=0)


def test_batch_norm_of_ranks_equals_the_concatenated_batch(ranks: list[dict[str, Any]]) -> None:
    expected = batch_norm(rows(16, 6, 3), rows(16, 6, 4))
    for name in ("output", "x"):
        together = torch.cat([found["batch norm"][name] for found in ranks])
        torch.testing.assert_close(together, expected[name], **EXACT)
    for name in ("weight", "bias"):
        total = sum(found["batch norm"][name] for found in ranks)
        torch.testing.assert_close(total, expected[name], **EXACT)
    for name in ("running_mean", "running_var"):
        for found in ranks:
            torch.testing.assert_close(found["batch norm"][name], expected[name], **EXACT)


def test_training_under_ddp_equals_one_process(ranks: list[dict[str, Any]]) -> None:
    expected = train(Network().double(), rows(16, 6, 5), PROMPT_IDS)
    for found in ranks:
        training = found["training"]
        for name in ("gradients", "losses", "state"):
            torch.testing.assert_close(training[name], expected[name], **EXACT)
    evaluated = torch.cat([found["training"]["evaluated"] for found in ranks])
    torch.testing.assert_close(evaluated, expected["evaluated"], **EXACT)
