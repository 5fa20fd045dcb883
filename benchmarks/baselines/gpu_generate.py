"""Images per second of the engines on one card: part of `benchmarks/gpu.py`.

Models have the real shapes of Stable Diffusion 1.5, 2.1-turbo and XL-turbo, with random weights. The first figures are
the comparison that users make: 16 images of 512², 50 steps, guidance 7.5, float16, by diffusers' own call and by the
engine. The rest say how the engine scales with rows of a call, backends, sizes and models, at fewer steps: a step costs
the same at any number of them. The floor is what the counted arithmetic takes at the rate of a large matrix product.
"""

import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from baselines.gpu_timing import Session

NEEDS = ("diffusers", "transformers", "zmq", "msgpack", "isal", "simplejpeg")


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    kind: str
    backend: Any
    rows: int
    side: int
    steps: int
    guidance: float = 7.5
    tiny_autoencoder: bool = False

    @property
    def name(self) -> str:
        """For the log and the figures."""
        tiny = " taesd" if self.tiny_autoencoder else ""
        return f"{self.kind} {self.side}² {self.steps} steps {self.backend} rows {self.rows}{tiny}"


HEADLINE = [Case("sd15", backend, 32, 512, 50) for backend in ("eager", "inductor")]
CASES = [
    *(Case("sd15", "eager", rows, 512, 8) for rows in (8, 64, 128)),
    *(Case("sd15", backend, 32, 512, 8) for backend in ("xformers", "tensorrt")),
    *(Case("sd15", "eager", rows, 256, 8) for rows in (32, 128)),
    *(Case("sd21-turbo", "eager", rows, 512, 1, 1.0) for rows in (8, 64)),
    Case("sd21-turbo", "eager", 64, 512, 1, 1.0, tiny_autoencoder=True),
    Case("sdxl-turbo", "eager", 32, 512, 1, 1.0),
]


def measure(session: Session, small: bool) -> dict[str, object]:
    """Rows of figures by case; `small` models for a rehearsal."""
    if lacking := [name for name in NEEDS if find_spec(name) is None]:
        session.skip("generate", f"not installed: {', '.join(lacking)}")
        return {}
    from baselines.sd_shapes import make_folder, make_tiny_autoencoder
    from penstock.telemetry.flops import matrix_flops_per_s

    dtype = torch.float32 if small else torch.float16
    rate = matrix_flops_per_s(session.device, dtype)
    figures: dict[str, object] = {"matrix_tflops_per_s": rate / 1e12, "dtype": str(dtype).removeprefix("torch.")}
    rows: list[dict[str, object]] = []
    cases = [*HEADLINE, *CASES]
    if small:
        cases = [
            Case(case.kind, "eager", 4, 64, 2, case.guidance, case.tiny_autoencoder) for case in dict.fromkeys(cases)
        ]
    with tempfile.TemporaryDirectory(prefix="penstock-shapes-") as root:
        folders: dict[str, Path] = {}
        taesd = make_tiny_autoencoder(Path(root), session.device)
        for case in dict.fromkeys(cases):
            if session.is_over:
                session.skip(f"generate {case.name}", "the time was used up")
                continue
            if case.kind not in folders:
                folders[case.kind] = make_folder(case.kind, Path(root), session.device, small=small)
            rows += _row(session, case, folders[case.kind], taesd if case.tiny_autoencoder else None, rate)
        if "sd15" in folders:
            rows += _stock(session, HEADLINE[0] if not small else cases[0], folders["sd15"])
    stock = [row["images_per_s"] for row in rows if row["backend"] == "diffusers"]
    for row in rows:
        row["ratio_to_diffusers"] = None
        is_headline = (row["kind"], row["steps"], row["side"]) == (cases[0].kind, cases[0].steps, cases[0].side)
        if stock and is_headline:
            row["ratio_to_diffusers"] = float(str(row["images_per_s"])) / float(str(stock[0]))
    return figures | {"rows": rows}


def _row(session: Session, case: Case, folder: Path, taesd: Path | None, rate: float) -> list[dict[str, object]]:
    """The case's figures, or none where it could not be measured."""
    from baselines.generating import Asked
    from penstock.producer.__main__ import open_engine
    from penstock.producer.config import ProduceConfig
    from penstock.producer.engine import make
    from penstock.protocol.errors import ModelError

    per_group = max(1, case.rows // (2 if case.guidance > 1 else 1))
    asked = Asked(per_group, case.guidance, case.steps, case.side)
    try:
        engine = open_engine(
            ProduceConfig(
                model=str(folder),
                backend=case.backend,
                batch_images=case.rows,
                decode_images=min(8, per_group),
                device=str(session.device),
                tiny_autoencoder=str(taesd) if taesd else "",
            )
        )
        engine.load()
    except ModelError as error:
        session.skip(f"generate {case.name}", str(error))
        return []
    tickets = [asked.ticket(0, engine.manifest.model_digest, native_side=case.side)]
    measured = session.time(f"generate {case.name}", lambda: make(engine, tickets), repeats=5)
    if measured is None:
        return []
    work = engine.work
    flops = (work.flops or 0.0) / work.images
    images_per_s = per_group / measured[0]
    print(f"generate {case.name}: {images_per_s:.2f} images/s", flush=True)
    return [
        {
            "kind": case.kind,
            "backend": case.backend,
            "rows": case.rows,
            "side": case.side,
            "steps": case.steps,
            "guidance": case.guidance,
            "autoencoder": "tiny" if taesd else "own",
            "images_per_s": images_per_s,
            "tflop_per_image": flops / 1e12,
            "tflops_per_s": flops * images_per_s / 1e12,
            "share_of_matrix_rate": flops * images_per_s / rate,
            "peak_bytes": measured[1],
        }
    ]


def _stock(session: Session, case: Case, folder: Path) -> list[dict[str, object]]:
    """Diffusers' own call at the settings of `case`."""
    from baselines.generating import Asked, by_pipeline
    from penstock.producer.loading import load_pipeline

    dtype = torch.float16 if session.device.type == "cuda" else torch.float32
    pipeline = load_pipeline(folder, dtype, session.device)
    num_images = case.rows // 2
    tickets = [Asked(num_images, case.guidance, case.steps, case.side).ticket(0, "aa", native_side=case.side)]
    measured = session.time(f"generate diffusers {case.name}", lambda: by_pipeline(pipeline, tickets), repeats=5)
    if measured is None:
        return []
    images_per_s = num_images / measured[0]
    print(f"generate diffusers {case.name}: {images_per_s:.2f} images/s", flush=True)
    return [
        {
            "kind": case.kind,
            "backend": "diffusers",
            "rows": case.rows,
            "side": case.side,
            "steps": case.steps,
            "guidance": case.guidance,
            "autoencoder": "own",
            "images_per_s": images_per_s,
            "peak_bytes": measured[1],
        }
    ]
