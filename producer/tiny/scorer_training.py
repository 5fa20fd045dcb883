"""Trains the toy world's own scorer: `python -m penstock.producer.tiny.scorer_training --out producer/tiny_siglip`.

A SigLIP in small (Zhai et al., arXiv 2303.15343): does this picture show what this caption says? Its sigmoid loss
judges every pair of a picture and a caption by itself, so one threshold means the same for all captions; under a
softmax the level of the cosines is the caption's own. Here the truth of every pair is known, not only of the diagonal:
a picture matches each caption whose digit is its own and whose ink and paper, where they are named, are its own. Beside
it stands a softmax over the ten bare captions: alone, the sigmoid loss learned colours at once and of digits next to
nothing (25% read rightly after 750 steps). Only training scans are drawn, afresh in every step.
"""

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTokenizer, SiglipConfig, SiglipModel

from penstock.producer.tiny.parts import MAX_TOKENS
from penstock.producer.tiny.tokenizer import make_tokenizer
from penstock.producer.tiny.train import cosine, to_pixels, tokenize
from penstock.toyworld.captions import VOCABULARY, Caption, caption, draw_caption
from penstock.toyworld.render import IMAGE_SIZE, INKS, PAPERS, Pose, draw_styles, render
from penstock.toyworld.scans import load_split

#: Chance that a training caption names the ink, and the paper: as often as not, so that both are learned.
NAMED = 0.5
#: Share of pictures without a digit, which match no caption: a generator makes such now and then.
BLANK = 0.04
#: Share of captions that name the digit of a picture of the batch, but colours at random: these differ by colour alone.
SAME_DIGIT = 0.25
#: A little wider than the renderer's own, because a generator's colours wander more than a renderer's.
POSE = Pose(tint=0.03, texture=0.03)
#: Captions that name the digit alone.
BARE = [caption(digit) for digit in range(10)]
WIDTH = 96
IMAGE_PROCESSOR = {
    "image_processor_type": "SiglipImageProcessor",
    "do_resize": True,
    "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def make_model(tokenizer: CLIPTokenizer) -> SiglipModel:
    """0.6 million parameters: a ViT over 64 patches of 4x4 pixels, and a text transformer of two layers."""
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": MAX_TOKENS, "projection_size": WIDTH, **tokens}
    text |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"image_size": IMAGE_SIZE, "patch_size": 4, "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH}
    vision |= {"num_hidden_layers": 4, "num_attention_heads": 4}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    # Words start far apart, as in parts.py, for the reason given there.
    nn.init.normal_(model.get_input_embeddings().weight, std=1.0)
    nn.init.constant_(model.logit_scale, math.log(10.0))
    nn.init.constant_(model.logit_bias, -5.0)
    return model


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures, captions, and what each pair of them is."""

    images: NDArray[np.uint8]
    """[N, 32, 32, 3]"""
    digits: NDArray[np.int64]
    """[N], of the pictures; -1 where there is none."""
    captions: list[str]
    """N of them."""
    pairs: NDArray[np.int64]
    """[N, N], by picture and caption, as `judge` numbers them."""


def draw_batch(size: int, rng: np.random.Generator) -> Batch:
    """Fresh renders of training scans, with captions."""
    scans = load_split("train")
    rows = rng.integers(len(scans), size=size)
    styles = draw_styles(size, rng, POSE)
    blank = rng.random(size) < BLANK
    images = render(np.where(blank[:, None, None], np.float32(0), scans.images[rows]), rng, styles, POSE)
    digits = np.where(blank, -1, scans.labels[rows])
    inks, papers = list(INKS), list(PAPERS)
    captions = []
    for row in range(size):
        digit, colours = int(scans.labels[rows[row]]), (inks[styles.ink[row]], papers[styles.paper[row]])
        ink, paper = (None, None) if rng.random() < SAME_DIGIT else colours
        captions.append(draw_caption(rng, digit, ink, paper, named=NAMED))
    pairs = judge(digits, [inks[ink] for ink in styles.ink], [papers[paper] for paper in styles.paper], captions)
    return Batch(images, digits, [one.text for one in captions], pairs)


def judge(
    digits: NDArray[np.int64], inks: Sequence[str], papers: Sequence[str], captions: Sequence[Caption]
) -> NDArray[np.int64]:
    """What each pair of N pictures and M captions is, int64 [N, M]: 0 a match, 1 another digit, 2 another colour.

    `digits`, `inks` and `papers` are those of the pictures; a digit of -1 is none.
    """
    same_digit = digits[:, None] == np.array([one.digit for one in captions])
    same_colour = np.ones_like(same_digit)
    for shown, named in (
        (inks, [one.ink for one in captions]),
        (papers, [one.paper for one in captions]),
    ):
        same_colour &= np.array([[name in (None, colour) for name in named] for colour in shown])
    return np.where(same_digit, np.where(same_colour, 0, 2), 1)


def pair_loss(logits: Tensor, pairs: Tensor, weights: Sequence[float]) -> Tensor:
    """Binary cross-entropy of logits float [N, M]; each kind of pair has its weight, few or many."""
    losses = F.binary_cross_entropy_with_logits(logits, (pairs == 0).to(logits.dtype), reduction="none")
    kinds = [(weight, losses[pairs == kind]) for kind, weight in enumerate(weights)]
    kinds = [(weight, of_kind) for weight, of_kind in kinds if of_kind.numel()]
    total: Tensor = sum((weight * of_kind.mean() for weight, of_kind in kinds), start=logits.new_zeros(()))
    return total / sum(weight for weight, _ in kinds)


def train(model: SiglipModel, tokenizer: CLIPTokenizer, args: argparse.Namespace) -> SiglipModel:
    """Trains; returns the moving average of the weights."""
    rng = np.random.default_rng(args.seed)
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    parts = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(parts, lr=args.lr, betas=(0.9, 0.98))
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    for step in range(1, args.steps + 1):
        cosine(optimizer, args.lr, step / args.steps, warmup=0.05)
        batch = draw_batch(args.batch, rng)
        texts = tokenize(tokenizer, [*batch.captions, *BARE])
        logits = model(texts, to_pixels(batch.images)).logits_per_image
        loss = pair_loss(logits[:, : -len(BARE)], torch.from_numpy(batch.pairs), (1.0, 1.0, args.colour_weight))
        by_digit = F.cross_entropy(logits[:, -len(BARE) :], torch.from_numpy(batch.digits), ignore_index=-1)
        loss = loss + args.softmax_weight * by_digit
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        if step % 50 == 0 or step == args.steps:
            _say(f"step {step}/{args.steps} loss {loss.item():.4f} {accuracy(model, tokenizer, rng):.3f}")
    return average.module


@torch.inference_mode()
def accuracy(model: SiglipModel, tokenizer: CLIPTokenizer, rng: np.random.Generator, size: int = 256) -> float:
    """Share of fresh renders of validation scans whose digit's caption scores highest of the ten."""
    scans = load_split("val")
    rows = rng.integers(len(scans), size=size)
    images = render(scans.images[rows], rng, draw_styles(size, rng))
    logits = model(tokenize(tokenizer, BARE), to_pixels(images)).logits_per_image
    return float((logits.argmax(dim=1).numpy() == scans.labels[rows]).mean())


def save(model: SiglipModel, out: Path) -> None:
    """Writes the model in half precision with its tokenizer and its image processor's settings; a README stays."""
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    model.half().save_pretrained(fresh)
    make_tokenizer(VOCABULARY, fresh, MAX_TOKENS)
    (fresh / "preprocessor_config.json").write_text(json.dumps(IMAGE_PROCESSOR, indent=2) + "\n", encoding="utf-8")
    for extra in out.glob("*.md"):
        shutil.copy2(extra, fresh)
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)


def main(argv: list[str] | None = None) -> None:
    """Trains the scorer and leaves it in `--out`."""
    parser = argparse.ArgumentParser(description="Train the scorer of the toy world.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished scorer; replaced")
    parser.add_argument("--start", type=Path, help="folder of a scorer to go on from")
    parser.add_argument("--colour-weight", type=float, default=0.5, help="of pairs that differ by colour alone")
    parser.add_argument("--softmax-weight", type=float, default=1.0, help="of the softmax over the bare captions")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    started = time.monotonic()
    tokenizer = make_tokenizer(VOCABULARY, args.out.with_name(args.out.name + ".tokenizer"), MAX_TOKENS)
    model = SiglipModel.from_pretrained(args.start, dtype=torch.float32) if args.start else make_model(tokenizer)
    save(train(model, tokenizer, args), args.out)
    shutil.rmtree(args.out.with_name(args.out.name + ".tokenizer"))
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    _say(json.dumps({"seconds": round(time.monotonic() - started), "bytes": size}))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
