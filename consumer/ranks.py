"""What ranks tell each other outside of training: addresses, a digest, counts. Tensors only, no pickle."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator

_STRING_BYTES = 256


def gather_strings(accelerator: Accelerator, text: str) -> tuple[str, ...]:
    """Every rank's `text`, by rank; at most 256 bytes of UTF-8 each."""
    encoded = text.encode()
    if len(encoded) > _STRING_BYTES:
        raise ValueError(f"text must be at most {_STRING_BYTES} bytes, got {len(encoded)}")
    row = torch.zeros(1, _STRING_BYTES, dtype=torch.uint8, device=accelerator.device)
    row[0, : len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8)
    rows: torch.Tensor = accelerator.gather(row)
    return tuple(bytes(row.tolist()).rstrip(b"\0").decode() for row in rows.cpu())


def gather_texts(accelerator: Accelerator, text: str) -> tuple[str, ...]:
    """Every rank's `text`, by rank; of any length."""
    encoded = text.encode()
    sizes: torch.Tensor = accelerator.gather(torch.tensor([len(encoded)], device=accelerator.device))
    row = torch.zeros(1, int(sizes.max()), dtype=torch.uint8)
    row[0, : len(encoded)] = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
    rows: torch.Tensor = accelerator.gather(row.to(accelerator.device))
    return tuple(bytes(row[:size].numpy()).decode() for row, size in zip(rows.cpu(), sizes.tolist(), strict=True))


def sum_over_ranks(accelerator: Accelerator, values: Sequence[float]) -> list[float]:
    """Each value's sum over all ranks."""
    totals: torch.Tensor = accelerator.reduce(
        torch.tensor(list(values), dtype=torch.float64, device=accelerator.device), reduction="sum"
    )
    # At once: one by one, each is a wait for the device, and a run may count a hundred thousand concepts.
    sums: list[float] = totals.tolist()
    return sums
