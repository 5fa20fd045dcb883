"""Reads digits in toy-world images: a small convnet that judges whether the generator obeys its prompts.

It is trained on renders of the training scans, by
`python -m penstock.producer.tiny.digit_reader --out benchmarks/digit_reader.safetensors`,
and takes no part in generation or training.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from penstock.toyworld.evaluation import evaluation_sets
from penstock.toyworld.render import draw_styles, render
from penstock.toyworld.scans import load_split


class DigitReader(nn.Module):
    """Four convolutions and a linear layer, 86 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _block(3, 24, stride=1),
            _block(24, 48, stride=2),
            _block(48, 64, stride=2),
            _block(64, 64, stride=2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(64 * 4 * 4, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits float32 [B, 10] of images [B, 32, 32, 3], 0..255."""
        logits: Tensor = self.layers(images.permute(0, 3, 1, 2).float() / 127.5 - 1)
        return logits

    @torch.inference_mode()
    def read(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The digits seen in images uint8 [N, 32, 32, 3], as int64 [N]."""
        self.eval()
        digits: NDArray[np.int64] = self(torch.from_numpy(images)).argmax(dim=1).numpy()
        return digits


def load_reader(path: Path) -> DigitReader:
    """A trained reader from a safetensors file."""
    reader = DigitReader()
    reader.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return reader.eval()


def train_reader(steps: int, batch: int, seed: int) -> DigitReader:
    """Trains on renders of training scans drawn afresh in each step."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    reader = DigitReader().train()
    scans = load_split("train")
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(steps):
        rows = rng.integers(len(scans), size=batch)
        images = render(scans.images[rows], rng, draw_styles(batch, rng))
        loss = F.cross_entropy(reader(torch.from_numpy(images)), torch.from_numpy(scans.labels[rows]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return reader.eval()


def real_accuracy(reader: DigitReader) -> float:
    """Share of digits read rightly in renders of the test scans, which the reader has never seen."""
    queries = evaluation_sets().queries
    return float((reader.read(queries.images) == queries.labels).mean())


def _block(channels: int, out_channels: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def main(argv: list[str] | None = None) -> None:
    """Trains a reader, prints its accuracy on real test renders, and saves it in half precision."""
    parser = argparse.ArgumentParser(description="Train the convnet that reads generated digits.")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    reader = train_reader(args.steps, args.batch, args.seed)
    save_file({name: tensor.half() for name, tensor in reader.state_dict().items()}, args.out)
    sys.stdout.write(f"accuracy on real test renders: {real_accuracy(load_reader(args.out)):.3f}\n")


if __name__ == "__main__":
    main()
