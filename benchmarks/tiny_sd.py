"""Does the shipped generator obey its prompts, and how fast is it?

`python benchmarks/tiny_sd.py --json tiny_sd.json` prints a table of read accuracy by guidance and steps (a
convnet trained on real renders reads the generated digits), then images per second of the default setting,
made by processes of one thread each, as the producers work.
"""

import argparse
import multiprocessing
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray

from penstock.producer.tiny.digit_reader import load_reader, real_accuracy
from penstock.toyworld.captions import Captioner

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "producer" / "tiny_sd"
READER = Path(__file__).with_name("digit_reader.safetensors")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(model: Path, dtype: str) -> Any:
    """The pipeline by the ordinary loader, silent."""
    diffusers_logging.disable_progress_bar()
    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=DTYPES[dtype])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: Any, prompts: list[str], guidance: float, steps: int, first_seed: int) -> NDArray[np.uint8]:
    """One image a prompt, uint8 [N, 32, 32, 3], with one generator per image."""
    generators = [torch.Generator().manual_seed(first_seed + index) for index in range(len(prompts))]
    with torch.inference_mode():
        images = pipeline(
            prompts,
            guidance_scale=guidance,
            num_inference_steps=steps,
            generator=generators,
            output_type="np",
        ).images
    pixels: NDArray[np.uint8] = np.rint(images * 255).astype(np.uint8)
    return pixels


def read_accuracy(pipeline: Any, num_images: int, guidance: float, steps: int, batch: int, reader_path: Path) -> float:
    """Share of generated digits that the reader reads as prompted."""
    reader, captioner = load_reader(reader_path), Captioner(seed=0)
    right = 0
    for start in range(0, num_images, batch):
        captions = [captioner.prompt(index) for index in range(start, min(start + batch, num_images))]
        images = generate(pipeline, [caption.text for caption in captions], guidance, steps, start)
        right += int((reader.read(images) == np.array([caption.digit for caption in captions])).sum())
    return right / num_images


def work(args: argparse.Namespace, barrier: Any, rates: Any) -> None:
    """One producer-like process: makes full batches for `args.seconds` and reports its images per second."""
    torch.set_num_threads(args.threads)
    pipeline = load(args.model, args.dtype)
    prompts = [Captioner(seed=1).prompt(index).text for index in range(args.batch)]
    generate(pipeline, prompts, args.guidance_scale, args.steps, 0)
    barrier.wait()
    made, started = 0, time.perf_counter()
    while time.perf_counter() - started < args.seconds:
        generate(pipeline, prompts, args.guidance_scale, args.steps, made)
        made += args.batch
    rates.put(made / (time.perf_counter() - started))


def images_per_s(args: argparse.Namespace) -> float:
    """Total rate of `args.processes` processes that work at once, each warm before the clock starts."""
    spawn = multiprocessing.get_context("spawn")
    barrier, rates = spawn.Barrier(args.processes), spawn.Queue()
    workers = [spawn.Process(target=work, args=(args, barrier, rates)) for _ in range(args.processes)]
    for worker in workers:
        worker.start()
    total = sum(rates.get(timeout=args.seconds + 120) for _ in workers)
    for worker in workers:
        worker.join()
    return float(total)


def main() -> None:
    """Prints the table and writes the figures of the default setting to `--json`."""
    parser = harness.parser(__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--reader", type=Path, default=READER)
    parser.add_argument("--num-images", type=int, default=512, help="images read for each accuracy")
    parser.add_argument("--guidance-scale", type=float, default=2.5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the speed measurement")
    parser.add_argument("--sweep", action="store_true", help="also measure other guidance scales and step counts")
    args = parser.parse_args()
    torch.set_num_threads(args.processes * args.threads)

    pipeline = load(args.model, args.dtype)
    default = (args.guidance_scale, args.steps)
    others = [(guidance, steps) for steps in (4, 6, 8) for guidance in (1.0, 1.5, 2.0, 3.0, 5.0)]
    print(f"{'guidance':>8} {'steps':>5} {'read as prompted':>17}")
    for guidance, steps in [default, *(others if args.sweep else [])]:
        accuracy = read_accuracy(pipeline, args.num_images, guidance, steps, args.batch, args.reader)
        print(f"{guidance:8.1f} {steps:5d} {accuracy:17.3f}", flush=True)
        if (guidance, steps) == default:
            default_accuracy = accuracy
    real = real_accuracy(load_reader(args.reader))
    del pipeline
    rate = images_per_s(args)
    print(f"the reader on real test renders: {real:.3f}")
    print(f"{rate:.1f} images/s by {args.processes} processes of {args.threads} thread(s), {args.dtype}")
    figures = {
        "read_accuracy": default_accuracy,
        "guidance_scale": args.guidance_scale,
        "num_inference_steps": args.steps,
        "num_images": args.num_images,
        "classifier_real_accuracy": real,
        "images_per_s": rate,
        "processes": args.processes,
        "threads": args.threads,
        "dtype": args.dtype,
        "batch": args.batch,
    }
    harness.write_json(args.json, figures, ("torch", "diffusers", "transformers"))


if __name__ == "__main__":
    main()
