"""Time and memory of the contrastive loss on one card: part of `benchmarks/gpu.py`.

`naive` is what one writes who knows autograd; `compiled` is torch.compile of that. Both hold matrices of all pairs, so
they end where the memory does. Labels are groups of six, StableRep's images of a caption in a batch.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from baselines.gpu_timing import Session
from baselines.losses import TEMPERATURE, plain
from penstock.kernels.multipos_loss import multipos_loss

DIM, GROUP = 256, 6
PRECISIONS = {"float32": "highest", "tf32": "high"}
"""Names in the figures, and PyTorch's for them."""

Loss = Callable[[Tensor, Tensor], Tensor]


def measure(session: Session, small: bool) -> dict[str, object]:
    """By precision: the rate of a large product, and a row for each N and way."""
    figures: dict[str, object] = {"dim": DIM, "group": GROUP}
    for name, precision in PRECISIONS.items():
        torch.set_float32_matmul_precision(precision)
        rate = _matrix_rate(session, name, 256 if small else 8192)
        rows = [
            row
            for num_rows in ((48, 96) if small else (8192, 16384, 32768, 65536, 131072))
            for row in _rows(session, name, num_rows, rate)
        ]
        figures[name] = {"matrix_flop_per_s": rate, "rows": rows}
    torch.set_float32_matmul_precision("highest")
    return figures


def _ways() -> dict[str, Loss]:
    """What to time."""
    return {
        "chunked": partial(multipos_loss, temperature=TEMPERATURE, backend="chunked"),
        "triton": partial(multipos_loss, temperature=TEMPERATURE, backend="triton"),
        "naive": plain,
        "compiled": torch.compile(plain, dynamic=False),
    }


def _rows(session: Session, precision: str, num_rows: int, rate: float | None) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(num_rows)
    labels = (torch.arange(num_rows) // GROUP)[torch.randperm(num_rows, generator=generator)].to(session.device)
    features = torch.randn(num_rows, DIM, generator=generator).to(session.device).requires_grad_()
    torch.compiler.reset()  # it gives up, without a word, on a function that it has compiled for eight shapes
    floor_s = 6 * num_rows**2 * DIM / rate if rate else None
    rows: list[dict[str, object]] = []
    for name, loss in _ways().items():

        def call(loss: Loss = loss) -> Tensor:
            return torch.autograd.grad(loss(features, labels), features)[0]

        measured = session.time(f"loss {precision} N={num_rows} {name}", call, repeats=10)
        if measured is None:
            continue
        seconds, peak_bytes = measured
        over = seconds / floor_s if floor_s else None
        rows.append(
            {"N": num_rows, "way": name, "ms": 1e3 * seconds, "peak_bytes": peak_bytes, "times_the_floor": over}
        )
        floor = f", {over:.2f} times the floor" if over else ""
        what = f"loss {precision} N={num_rows} {name}"
        print(f"{what}: {1e3 * seconds:.2f} ms, {peak_bytes / 2**20:,.0f} MiB{floor}", flush=True)
    return rows


def _matrix_rate(session: Session, precision: str, side: int) -> float | None:
    """Operations per second of a square product of float32 matrices."""
    left, right = (torch.randn(side, side, device=session.device) for _ in range(2))
    measured = session.time(f"matrix rate {precision}", lambda: left @ right)
    return None if measured is None else 2 * side**3 / measured[0]
