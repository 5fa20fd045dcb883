"""What a rank of tests/kernels/test_ranks.py computes and saves: `python -m tests.kernels.rank_program RANK FOLDER`.

The same functions, called without a group, are what one process computes with all rows.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn

from penstock.consumer.projection_head import ProjectionHead, ViewBatchNorm
from penstock.kernels.backends import Backend
from penstock.kernels.collectives import default_group, gather_counts, gather_rows
from penstock.kernels.multipos_clip_loss import multipos_clip_loss
from penstock.kernels.multipos_loss import multipos_loss
from penstock.kernels.multipos_momentum_loss import multipos_momentum_loss
from tests.kernels.peak_memory import peak_bytes

WORLD_SIZE = 4
NUM_VIEWS = 2
GROUPS = (3, 1, 2, 2)  # of each rank: batches differ in size
LOSS_ROWS = {1: (13,), 2: (5, 8), 3: (5, 0, 8), 4: (4, 0, 3, 6)}
"""Rows of each rank by the number of ranks."""
TEXT_ROWS = {1: (6,), 2: (2, 4), 3: (0, 5, 1), 4: (1, 0, 3, 2)}
BACKENDS: tuple[Backend, ...] = ("chunked", "reference")
COLLECTIVES = ("all_gather", "all_gather_into_tensor", "all_reduce", "all_to_all", "broadcast", "reduce_scatter")
FEW_ROWS = {
    "one": ((1, 0), (0, 1)),
    "no text": ((1, 0), (0, 0)),
    "no image": ((0, 0), (1, 0)),
    "none": ((0, 0), (0, 0)),
}
"""Images and texts of two ranks; a group of one has the first rank's."""
MEMORY_ROWS, MEMORY_CHUNK = 4096, 64

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


def momentum_loss_and_gradient(ranks: int, rank: int, group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    """SynCLR's loss of a rank's share, its gradient, and the collectives of each way."""
    student = share(rows(13, 6, 8), LOSS_ROWS[ranks], rank).requires_grad_()
    teacher, labels = (share(of_all, LOSS_ROWS[ranks], rank) for of_all in (rows(13, 6, 9), LOSS_LABELS))
    with collectives() as forward:
        loss = multipos_momentum_loss(student, teacher, labels, temperature=0.2, group=group, chunk_size=2)
    with collectives() as backward:
        (gradient,) = torch.autograd.grad(loss, student)
    calls = [sum(each.call_count for each in way) for way in (forward, backward)]
    return {"loss": loss.detach(), "rows": gradient, "collectives": torch.tensor(calls)}


def losses_of_few_rows(rank: int, group: dist.ProcessGroup, backend: Backend) -> dict[str, Any]:
    """By case and loss: the loss and the sum of its gradients' absolutes, or what the ValueError says."""
    found: dict[str, Any] = {}
    for case, counts in FEW_ROWS.items():
        of_rank = [each[rank] if group.size() > 1 else sum(each) for each in counts]
        images, texts = (rows(1, 3, 2)[:num].float().requires_grad_() for num in of_rank)
        labels = [torch.full((num,), 2**60 + 1) for num in of_rank]
        how: dict[str, Any] = {"temperature": 0.1, "group": group, "backend": backend}
        for name, loss_of, arguments in (
            ("images", multipos_loss, (images, labels[0])),
            ("texts", multipos_clip_loss, (images, texts, *labels)),
        ):
            try:
                loss = loss_of(*arguments, **how)  # type: ignore[operator]
            except ValueError as error:
                found[f"{case}: {name}"] = str(error)
                continue
            gradients = torch.autograd.grad(loss, (images, texts), allow_unused=True)
            size = sum(each.abs().sum().item() for each in gradients if each is not None)
            found[f"{case}: {name}"] = (loss.item(), size)
    return found


def peaks_of_memory(rank: int, group: dist.ProcessGroup) -> dict[str, int]:
    """By loss, the bytes that a rank with its share of `MEMORY_ROWS` rows holds in forward and backward."""
    num = MEMORY_ROWS // group.size()
    images, texts = (rows(num, 8, seed + rank).float().requires_grad_() for seed in (10, 20))
    labels = torch.arange(num * rank, num * (rank + 1)) // 4
    how: dict[str, Any] = {"temperature": 0.1, "group": group, "chunk_size": MEMORY_CHUNK}
    return {
        "images": peak_bytes(lambda: multipos_loss(images, labels, **how).backward()),
        "texts": peak_bytes(lambda: multipos_clip_loss(images, texts, labels, labels, **how).backward()),
    }


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
    optimizer, losses = torch.optim.SGD(network.parameters(), lr=0.5), []
    labels = prompt_ids.repeat_interleave(NUM_VIEWS)
    gradients: list[Tensor] = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = multipos_loss(network(x), labels, temperature=0.3, group=default_group())
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
                if ranks <= 2:
                    found[f"few rows of {ranks}, {backend}"] = losses_of_few_rows(rank, group, backend)
            found[f"momentum loss of {ranks}"] = momentum_loss_and_gradient(ranks, rank, group)
            if ranks == 2:
                found["memory"] = peaks_of_memory(rank, group)
    found["losses alone"] = losses_and_gradients(1, 0, None)

    image_counts = tuple(NUM_VIEWS * groups for groups in GROUPS)
    x, weights = (share(rows(16, 6, seed), image_counts, rank) for seed in (3, 4))
    found["batch norm"] = batch_norm(x, weights)
    network = nn.parallel.DistributedDataParallel(Network().double())
    found["training"] = train(network, share(rows(16, 6, 5), image_counts, rank), share(PROMPT_IDS, GROUPS, rank))
    torch.save(found, folder / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), Path(sys.argv[2]))
