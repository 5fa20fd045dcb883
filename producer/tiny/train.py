"""Trains the shipped miniature of Stable Diffusion: `python -m penstock.producer.tiny.train --out DIR`.

The same parts as the original (Rombach et al., CVPR 2022, arXiv 2112.10752), small enough for a CPU: a KL
autoencoder from 32x32 pixels to 4x8x8 latents, a UNet with cross-attention, and a CLIP text transformer,
which is trained together with the UNet since no pre-trained one knows so small a vocabulary. Only training
scans are drawn, afresh in every step. The UNet predicts v (Salimans and Ho, arXiv 2202.00512): with so few
sampling steps, epsilon at high noise would lose the paper's colour.
"""

import argparse
import copy
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from penstock.producer.tiny.parts import (
    MAX_TOKENS,
    make_autoencoder,
    make_scheduler,
    make_text_encoder,
    make_unet,
)
from penstock.producer.tiny.tokenizer import make_tokenizer
from penstock.toyworld.captions import VOCABULARY, draw_caption
from penstock.toyworld.render import INKS, PAPERS, POSE, Pose, draw_styles, render
from penstock.toyworld.scans import load_split

#: Share of captions replaced by the empty one, from which classifier-free guidance (arXiv 2207.12598) steers
#: away.
CAPTION_DROPPED = 0.1
#: Chance that a training caption names the ink, and the paper. Prompts name them less; colours are learned
#: faster so.
NAMED = 0.5
#: How much more the decoder's last stage counts errors of hue.
HUE_WEIGHT = 8.0
DECODER_LR = 2e-3
#: The autoencoder learns wider poses than the UNet, so that latents of any pose are good.
AUTOENCODER_POSE = Pose(max_angle=0.35, min_size=0.45, max_size=1.0, overhang=0.1, tint=0.03, texture=0.04)


def draw_batch(size: int, rng: np.random.Generator, pose: Pose = POSE) -> tuple[Tensor, list[str]]:
    """Fresh renders of training scans, float32 [size, 3, 32, 32] in -1..1, and their captions."""
    scans = load_split("train")
    rows = rng.integers(len(scans), size=size)
    styles = draw_styles(size, rng, pose)
    images = render(scans.images[rows], rng, styles, pose)
    inks, papers = list(INKS), list(PAPERS)
    captions = [
        ""
        if rng.random() < CAPTION_DROPPED
        else draw_caption(rng, int(digit), inks[ink], papers[paper], named=NAMED).text
        for digit, ink, paper in zip(scans.labels[rows], styles.ink, styles.paper, strict=True)
    ]
    return to_pixels(images), captions


def to_pixels(images: NDArray[np.uint8]) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids int64 [B, MAX_TOKENS], as StableDiffusionPipeline would make them."""
    tokens = tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    ids: Tensor = tokens.input_ids
    return ids


def cosine(optimizer: torch.optim.Optimizer, base_lr: float, progress: float, warmup: float = 0.02) -> None:
    """Sets the learning rate: linear warm-up, then half a cosine; `progress` runs from 0 to 1."""
    rise = min(1.0, progress / warmup)
    fall = 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        group["lr"] = base_lr * rise * fall * group.get("lr_scale", 1.0)


def train_autoencoder(model: AutoencoderKL, steps: int, batch: int, base_lr: float, rng: np.random.Generator) -> None:
    """Squared error plus a light KL term; then sets the scaling factor so that latents have unit variance."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=base_lr, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(steps):
        cosine(optimizer, base_lr, step / steps)
        pixels, _ = draw_batch(batch, rng, AUTOENCODER_POSE)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(pixels).latent_dist
            decoded = model.decode(posterior.sample()).sample
        error = F.mse_loss(decoded.float(), pixels)
        loss = error + 1e-4 * posterior.kl().mean() / 256
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            _say(f"autoencoder step {step}/{steps} mse {error.item():.5f}")
    with torch.inference_mode():
        latents = model.encode(draw_batch(1024, rng)[0]).latent_dist.sample()
    model.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    _say(f"autoencoder scaling factor {model.config.scaling_factor}")


def refine_decoder(model: AutoencoderKL, steps: int, batch: int, base_lr: float, rng: np.random.Generator) -> None:
    """Trains the decoder alone, with the error of the hue counted more; latents stay as they are.

    Plain squared error cares little whether thin, dark strokes are blue or green. Before this stage half of the inks
    could not be told from the decoded image.
    """
    decoder = [*model.post_quant_conv.parameters(), *model.decoder.parameters()]
    optimizer = torch.optim.AdamW(decoder, lr=base_lr, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(steps):
        cosine(optimizer, base_lr, step / steps)
        pixels, _ = draw_batch(batch, rng)
        with torch.no_grad():
            latents = model.encode(pixels).latent_dist.sample()
        with torch.autocast("cpu", torch.bfloat16):
            decoded = model.decode(latents).sample
        error = decoded.float() - pixels
        hue_error = error - error.mean(dim=1, keepdim=True)
        loss = error.square().mean() + HUE_WEIGHT * hue_error.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(decoder, 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            _say(f"decoder step {step}/{steps} mse {error.square().mean().item():.5f} loss {loss.item():.5f}")


class Denoiser(nn.Module):
    """The UNet and its text encoder, trained as one and averaged as one."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, latents: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
        """V [B, 4, 8, 8] for noisy latents of the same shape, timesteps int64 [B] and ids int64 [B, 16]."""
        states = self.text_encoder(token_ids).last_hidden_state
        predicted: Tensor = self.unet(latents, timesteps, states).sample
        return predicted


def diffusion_loss(
    model: Denoiser,
    vae: AutoencoderKL,
    scheduler: DPMSolverMultistepScheduler,
    pixels: Tensor,
    token_ids: Tensor,
) -> Tensor:
    """Mean squared error of v at uniform timesteps, stratified over the batch to lower the variance."""
    size, horizon = len(pixels), scheduler.config.num_train_timesteps
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample().float() * vae.config.scaling_factor
        timesteps = ((torch.arange(size) + torch.rand(size)) * (horizon / size)).long().clamp(max=horizon - 1)
        noise = torch.randn_like(latents)
        kept = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        target = kept.sqrt() * noise - (1 - kept).sqrt() * latents
        predicted = model(noisy, timesteps, token_ids)
    return F.mse_loss(predicted.float(), target)


def save(pipeline: StableDiffusionPipeline, out: Path) -> None:
    """Writes the pipeline beside `out`, then renames: no reader sees half a folder."""
    fresh, old = out.with_name(out.name + ".new"), out.with_name(out.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.save_pretrained(fresh, safe_serialization=True)
    make_tokenizer(VOCABULARY, fresh / "tokenizer", MAX_TOKENS)
    for config in fresh.glob("*/config.json"):
        _forget_origin(config)
    if out.exists():
        for extra in out.glob("*.md"):
            shutil.copy2(extra, fresh)
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def pipeline_of(model: Denoiser, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """An ordinary pipeline made of copies, in half precision to save room.

    The text encoder stays in float32: without a dtype asked for, transformers would load it as stored and diffusers
    the other parts as float32, and the two could not work together.
    """
    return StableDiffusionPipeline(
        vae=copy.deepcopy(vae).half(),
        text_encoder=copy.deepcopy(model.text_encoder),
        tokenizer=tokenizer,
        unet=copy.deepcopy(model.unet).half(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def train_denoiser(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, args: argparse.Namespace, rng: np.random.Generator
) -> Denoiser:
    """Trains UNet and text encoder; returns their moving average, saved to `args.out` on the way."""
    model = Denoiser(make_unet(), make_text_encoder(tokenizer))
    average = EMAModel(model.parameters(), decay=args.ema, use_ema_warmup=False)
    parts = [
        {"params": model.unet.parameters(), "weight_decay": 0.01},
        {"params": model.text_encoder.parameters(), "weight_decay": 0.0, "lr_scale": 0.2},
    ]
    optimizer = torch.optim.AdamW(parts, lr=args.lr, betas=(0.9, 0.99))
    scheduler = make_scheduler()
    averaged = Denoiser(make_unet(), make_text_encoder(tokenizer)).eval()
    losses: list[float] = []
    for step in range(1, args.steps + 1):
        cosine(optimizer, args.lr, step / args.steps)
        pixels, captions = draw_batch(args.batch, rng)
        loss = diffusion_loss(model, vae, scheduler, pixels, tokenize(tokenizer, captions))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.step(model.parameters())
        losses.append(loss.item())
        if step % 50 == 0:
            _say(f"unet step {step}/{args.steps} loss {np.mean(losses[-50:]):.4f}")
        if step % args.save_every == 0 or step == args.steps:
            average.copy_to(averaged.parameters())
            save(pipeline_of(averaged, vae, tokenizer), args.out)
    return averaged


def main(argv: list[str] | None = None) -> None:
    """Trains all parts and leaves the pipeline in `--out`."""
    parser = argparse.ArgumentParser(description="Train the shipped tiny Stable Diffusion.")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the finished pipeline; replaced on each save"
    )
    parser.add_argument("--autoencoder", type=Path, help="a trained autoencoder's folder, to skip the first stages")
    parser.add_argument("--autoencoder-steps", type=int, default=800)
    parser.add_argument("--decoder-steps", type=int, default=500, help="steps on the decoder alone")
    parser.add_argument("--autoencoder-lr", type=float, default=3e-3)
    parser.add_argument("--steps", type=int, default=1800, help="optimizer steps of the UNet and text encoder")
    parser.add_argument("--batch", type=int, default=128, help="images a step; the autoencoder takes half as many")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.997)
    parser.add_argument("--save-every", type=int, default=200, help="UNet steps between interim pipelines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    started = time.monotonic()

    # Each stage has its own seed, so that skipping the first changes nothing in the second.
    vae_folder = args.autoencoder or args.out.with_name(args.out.name + ".vae")
    if args.autoencoder is None:
        torch.manual_seed(args.seed)
        vae = make_autoencoder()
        train_autoencoder(
            vae,
            args.autoencoder_steps,
            args.batch // 2,
            args.autoencoder_lr,
            np.random.default_rng([args.seed, 0]),
        )
        torch.manual_seed(args.seed)
        rng = np.random.default_rng([args.seed, 2])
        refine_decoder(vae, args.decoder_steps, args.batch // 2, DECODER_LR, rng)
        vae.save_pretrained(vae_folder)
    vae = AutoencoderKL.from_pretrained(vae_folder).eval().requires_grad_(False)
    torch.manual_seed(args.seed + 1)
    tokenizer = make_tokenizer(VOCABULARY, vae_folder / "tokenizer", MAX_TOKENS)
    train_denoiser(vae, tokenizer, args, np.random.default_rng([args.seed, 1]))
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    _say(json.dumps({"seconds": round(time.monotonic() - started), "bytes": size, "threads": args.threads}))


def _forget_origin(config: Path) -> None:
    """Removes the place that a part was once loaded from: it means nothing on another machine."""
    fields = json.loads(config.read_text(encoding="utf-8"))
    fields.pop("_name_or_path", None)
    config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
