"""Several ranks must compute what one process does with all rows: loss, BatchNorm, and training under DDP.

One set of three gloo processes serves all checks, as starting them costs seconds. This file is also their
program: each rank saves what it found, and the tests compare that with the same arithmetic in this process.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from penstock.consumer.objectives import StableRep
from penstock.consumer.projection_head import ProjectionHead, ViewBatchNorm
from penstock.kernels.collectives import default_group, gather_counts, gather_rows
from penstock.kernels.multipos_loss import multipos_loss

pytestmark = pytest.mark.timeout(300)  # importing torch four times on a busy machine

WORLD_SIZE = 3
NUM_VIEWS = 2
GROUPS = (3, 1, 4)  # of each rank: batches differ in size
LOSS_ROWS = (5, 0, 8)
EXACT = {"rtol": 0, "atol": 1e-12}

# Ids that a float64 or a 32-bit word could not hold; some recur on the same rank and on others.
PROMPT_IDS = torch.tensor([2**62 + 1, 2**62 + 2, -5, 2**62 + 1, 7, 7, -5, 2**62 + 2])
LOSS_LABELS = torch.tensor([9, 9, 2**60, 2**60 + 1, 4, 2**60 + 1, 2**60, 9, 5, 5, 9, 4, 77])


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


def loss_and_gradients(
    features: Tensor, labels: Tensor, group: dist.ProcessGroup | None, chunk_size: int = 3
) -> dict[str, Tensor]:
    features.requires_grad_()
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    loss = multipos_loss(features, labels, temperature=temperature, group=group, chunk_size=chunk_size)
    in_features, in_temperature = torch.autograd.grad(loss, (features, temperature))
    return {"loss": loss.detach(), "features": in_features, "temperature": in_temperature}


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
    counts = gather_counts(LOSS_ROWS[rank], torch.device("cpu"), world)
    ids, halves = share(LOSS_LABELS, LOSS_ROWS, rank), share(rows(13, 2, 1), LOSS_ROWS, rank).half()
    found["gathered"] = [counts, *gather_rows([ids, halves], counts, world)]

    features = share(rows(13, 6, 2), LOSS_ROWS, rank)
    found["loss of three"] = loss_and_gradients(features, ids, world)
    pair = dist.new_group([0, 1])
    if rank < 2:
        features = share(rows(13, 6, 2), (5, 8), rank)
        found["loss of two"] = loss_and_gradients(features, share(LOSS_LABELS, (5, 8), rank), pair)
    found["loss alone"] = loss_and_gradients(rows(13, 6, 2), LOSS_LABELS, None)

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
        assert counts == list(LOSS_ROWS)
        assert torch.equal(labels, LOSS_LABELS)
        assert torch.equal(halves, rows(13, 2, 1).half())


@pytest.mark.parametrize(("name", "counts"), [("loss of two", (5, 8)), ("loss of three", LOSS_ROWS)])
def test_loss_of_ranks_equals_one_process(ranks: list[dict[str, Any]], name: str, counts: tuple[int, ...]) -> None:
    expected = loss_and_gradients(rows(13, 6, 2), LOSS_LABELS, None)
    found = [of_rank[name] for of_rank in ranks[: len(counts)]]
    for of_rank in found:
        torch.testing.assert_close(of_rank["loss"], expected["loss"], **EXACT)
    # DDP divides by the world size; so do we here.
    gradient = torch.cat([of_rank["features"] for of_rank in found]) / len(counts)
    torch.testing.assert_close(gradient, expected["features"], **EXACT)
    in_temperature = torch.stack([of_rank["temperature"] for of_rank in found]).mean()
    torch.testing.assert_close(in_temperature, expected["temperature"], **EXACT)


def test_without_a_group_a_rank_is_alone(ranks: list[dict[str, Any]]) -> None:
    expected = loss_and_gradients(rows(13, 6, 2), LOSS_LABELS, None)
    for found in ranks:
        torch.testing.assert_close(found["loss alone"], expected, rtol=0, atol=0)


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
