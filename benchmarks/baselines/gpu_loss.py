"""Time and memory of the contrastive loss on one card: part of `benchmarks/gpu.py`.

`naive` is what one writes who knows autograd; `compiled` is torch.compile of that. Both hold matrices of all pairs, so
they end where the memory does. Labels are groups of six, StableRep's images of a caption in a batch.

Every way's loss and gradient must be those of float64, within `TOLERANCES`, or it gets no figures but a reason. The
time stands beside that of 6 N² D and of 4 N² D operations at the rate of a large product of the same precision. 6 is
what `naive` and `compiled` do, and a rank's part of `chunked`; in one process `chunked` does 4, as the similarities are
symmetric. `triton` does 8 at this D, and forms each product from three TF32 ones, whatever the precision.
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
PRODUCTS = {"float32": "full float32", "tf32": "TF32"}
"""How a matrix product is formed by PyTorch at that precision."""
TOLERANCES = {"float32": (1e-5, 1e-4), "tf32": (1e-4, 1e-3)}
"""How far the loss, and the norm of the gradient's error, may be from float64's, relative to that."""

Loss = Callable[[Tensor, Tensor], Tensor]


class Way:
    """A loss to time with its gradient; keeps what its last call computed."""

    def __init__(self, loss_of: Loss, features: Tensor, labels: Tensor) -> None:
        self._loss_of, self._features, self._labels = loss_of, features.detach().requires_grad_(), labels
        self._loss = self._gradient = torch.empty(0)

    def __call__(self) -> None:
        """Forward and backward."""
        loss = self._loss_of(self._features, self._labels)
        self._loss, self._gradient = loss.detach(), torch.autograd.grad(loss, self._features)[0]

    def errors(self, exact: "Way") -> tuple[float, float]:
        """Of the loss and of the gradient's norm, relative to those of `exact`."""
        loss = (self._loss - exact._loss).abs() / exact._loss.abs()
        gradient = (self._gradient - exact._gradient).norm() / exact._gradient.norm()
        return loss.item(), gradient.item()


def measure(session: Session, small: bool) -> dict[str, object]:
    """By precision: the rate of a large product, and a row for each N and way."""
    figures: dict[str, object] = {"dim": DIM, "group": GROUP, "tolerances": TOLERANCES}
    for name, precision in PRECISIONS.items():
        torch.set_float32_matmul_precision(precision)
        rate = _matrix_rate(session, name, 256 if small else 8192)
        rows = [
            row
            for num_rows in ((96,) if small else (8192, 16384, 32768, 65536, 131072))
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
    features = torch.randn(num_rows, DIM, generator=generator).to(session.device)
    torch.compiler.reset()  # it gives up, without a word, on a function that it has compiled for eight shapes
    exact = Way(partial(multipos_loss, temperature=TEMPERATURE), features.double(), labels)
    if session.time(f"loss float64 N={num_rows}, to compare with", exact, repeats=1) is None:
        return []
    rows: list[dict[str, object]] = []
    for name, loss_of in _ways().items():
        what = f"loss {precision} N={num_rows} {name}"
        way = Way(loss_of, features, labels)
        measured = session.time(what, way, repeats=10)
        if measured is None:
            continue
        (seconds, peak_bytes), (loss_error, gradient_error) = measured, way.errors(exact)
        errors = f"loss off by {loss_error:.1e}, gradient by {gradient_error:.1e}"
        if not (loss_error <= TOLERANCES[precision][0] and gradient_error <= TOLERANCES[precision][1]):
            session.not_measured[what] = f"computes something else: {errors}"
            print(f"{what}: not measured: {session.not_measured[what]}", flush=True)
            continue
        row: dict[str, object] = {"N": num_rows, "way": name, "ms": 1e3 * seconds, "peak_bytes": peak_bytes}
        row["products"] = "3 x TF32" if name == "triton" else PRODUCTS[precision]
        row |= {"loss_error": loss_error, "gradient_error": gradient_error}
        over = {times: seconds * rate / (times * num_rows**2 * DIM) if rate else None for times in (6, 4)}
        row |= {f"ratio_to_time_at_{times}n2d": ratio for times, ratio in over.items()}
        rows.append(row)
        ratios = "".join(f", {ratio:.2f} of the time at {times}N²D" for times, ratio in over.items() if ratio)
        print(f"{what}: {1e3 * seconds:.2f} ms, {peak_bytes / 2**20:,.0f} MiB{ratios}, {errors}", flush=True)
    return rows


def _matrix_rate(session: Session, precision: str, side: int) -> float | None:
    """Operations per second of a square product of float32 matrices."""
    left, right = (torch.randn(side, side, device=session.device) for _ in range(2))
    measured = session.time(f"matrix rate {precision}", lambda: left @ right)
    return None if measured is None else 2 * side**3 / measured[0]
