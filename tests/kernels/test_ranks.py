"""Several ranks must compute what one process does with all rows: loss, BatchNorm, and training under DDP.

One set of four gloo processes serves all checks, as starting them costs seconds. This file is also their
program: each rank saves what it found, and the tests compare that with the same arithmetic in this process.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from penstock.consumer.objectives import StableRep
from penstock.consumer.projection_head import ProjectionHead, ViewBatchNorm
from penstock.kernels.backends import Backend
from penstock.kernels.collectives import default_group, gather_counts, gather_rows
from penstock.kernels.multipos_clip_loss import multipos_clip_loss
from penstock.kernels.multipos_loss import multipos_loss

pytestmark = pytest.mark.timeout(300)  # importing torch four times on a busy machine

WORLD_SIZE = 4
NUM_VIEWS = 2
GROUPS = (3, 1, 2, 2)  # of each rank: batches differ in size
LOSS_ROWS = {1: (13,), 2: (5, 8), 3: (5, 0, 8), 4: (4, 0, 3, 6)}
"""Rows of each rank by the number of ranks."""
TEXT_ROWS = {1: (6,), 2: (2, 4), 3: (0, 5, 1), 4: (1, 0, 3, 2)}
BACKENDS: tuple[Backend, ...] = ("chunked", "reference")
COLLECTIVES = ("all_gather", "all_gather_into_tensor", "all_reduce", "all_to_all", "broadcast", "reduce_scatter")
EXACT = {"rtol": 0, "atol": 1e-12}

# Ids that a float64 or a 32-bit word could not hold; some recur on the same rank and on others.
PROMPT_IDS = torch.tensor([2**62 + 1, 2**62 + 2, -5, 2**62 + 1, 7, 7, -5, 2**62 + 2])
LOSS_LABELS = torch.tensor([9, 9, 2**60, 2**60 + 1, 4, 2**60 + 1, 2**60, 9, 5, 5, 9, 4, 77])
TEXT_LABELS = torch.tensor([2**60, 9, 5, 2**60 + 1, 9, 1])


def rows(num: int, dim: int, seed: int) -> Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def share(everything: Tensor, counts: tuple[int, ...], rank: int) -> Tensor:
    return everything.split(list(counts))[rank].clone()


class Network(nn.Module):
    """Something below the head, so that gradients flow through it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(6, 10), ProjectionHead(10, 12, 5)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.head(self.stem(x).tanh(), NUM_VIEWS)
        return projected


def losses_and_gradients(
    ranks: int, rank: int, group: dist.ProcessGroup | None, backend: Backend = "chunked"
) -> dict[str, Tensor]:
    """Both losses of a rank's share, their gradients, and the collectives of each way."""
    images = share(rows(13, 6, 2), LOSS_ROWS[ranks], rank).requires_grad_()
    texts = share(rows(6, 6, 7), TEXT_ROWS[ranks], rank).requires_grad_()
    image_labels, text_labels = (
        share(LOSS_LABELS, LOSS_ROWS[ranks], rank),
        share(TEXT_LABELS, TEXT_ROWS[ranks], rank),
    )
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    how: dict[str, Any] = {"temperature": temperature, "group": group, "backend": backend, "chunk_size": 3}
    found = {}
    for name, inputs, loss_of in (
        ("images", (images, temperature), lambda: multipos_loss(images, image_labels, **how)),
        (
            "texts",
            (images, texts, temperature),
            lambda: multipos_clip_loss(images, texts, image_labels, text_labels, **how),
        ),
    ):
        with collectives() as forward:
            loss = loss_of()
        with collectives() as backward:
            *in_rows, in_temperature = torch.autograd.grad(loss, inputs)
        found |= {f"{name}: loss": loss.detach(), f"{name}: temperature": in_temperature}
        found |= {f"{name}: rows {number}": gradient for number, gradient in enumerate(in_rows)}
        found[f"{name}: collectives"] = torch.tensor(
            [sum(each.call_count for each in way) for way in (forward, backward)]
        )
    return found


@contextlib.contextmanager
def collectives() -> Iterator[list[mock.Mock]]:
    """Stand-ins that pass every collective on and count it."""
    with contextlib.ExitStack() as patches:
        yield [patches.enter_context(mock.patch.object(dist, name, wraps=getattr(dist, name))) for name in COLLECTIVES]


def batch_norm(x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    norm = ViewBatchNorm(6).double()
    x.requires_grad_()
    output = norm(x, NUM_VIEWS)
    (output * weights).sum().backward()
    assert x.grad is not None
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    return {
        "output": output.detach(),
        "x": x.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
    }


def train(network: nn.Module, x: Tensor, prompt_ids: Tensor) -> dict[str, Any]:
    """Three steps of SGD; the first step's gradients, every loss, and the weights and buffers at the end."""
    optimizer, objective, losses = (
        torch.optim.SGD(network.parameters(), lr=0.5),
        StableRep(temperature=0.3),
        [],
    )
    gradients: list[Tensor] = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = objective(network(x), prompt_ids)
        loss.backward()
        gradients = gradients or [p.grad.clone() for p in network.parameters() if p.grad is not None]
        optimizer.step()
        losses.append(loss.detach())
    state = {name.removeprefix("module."): value for name, value in network.state_dict().items()}
    evaluated = network.eval()(x).detach()
    return {"gradients": gradients, "losses": losses, "state": state, "evaluated": evaluated}


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE)
    world = default_group()
    assert world is not None
    found: dict[str, Any] = {}
    loss_rows = LOSS_ROWS[WORLD_SIZE]
    counts = gather_counts(loss_rows[rank], torch.device("cpu"), world)
    ids, halves = share(LOSS_LABELS, loss_rows, rank), share(rows(13, 2, 1), loss_rows, rank).half()
    found["gathered"] = [counts, *gather_rows([ids, halves], counts, world)]

    for ranks in LOSS_ROWS:
        group = dist.new_group(list(range(ranks)))
        if rank < ranks:
            for backend in BACKENDS:
                found[f"losses of {ranks}, {backend}"] = losses_and_gradients(ranks, rank, group, backend)
    found["losses alone"] = losses_and_gradients(1, 0, None)

    image_counts = tuple(NUM_VIEWS * groups for groups in GROUPS)
    x, weights = (share(rows(16, 6, seed), image_counts, rank) for seed in (3, 4))
    found["batch norm"] = batch_norm(x, weights)
    network = nn.parallel.DistributedDataParallel(Network().double())
    found["training"] = train(network, share(rows(16, 6, 5), image_counts, rank), share(PROMPT_IDS, GROUPS, rank))
    torch.save(found, folder / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], env=environment)
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


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), Path(sys.argv[2]))
