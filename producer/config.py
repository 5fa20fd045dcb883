"""Configuration of a producer. Only how it works stands here; what is made comes with the tickets."""

import os
import socket
from dataclasses import dataclass
from math import inf
from typing import Literal

from penstock.config.address import parse_address
from penstock.config.rules import require
from penstock.protocol.limits import MAX_GROUP_BYTES, MAX_NAME_LENGTH


def default_name() -> str:
    """`HOST-PID`: unique on a network, and enough to find the process."""
    return f"{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProduceConfig:
    """Makes images for a run: connects to one rank, learns of the others, works on the tickets that they give."""

    connect: str = "tcp://127.0.0.1:5599"
    """Address of any rank of the run, as the trainer logs it; or several with commas between, of which one that answers
    is enough."""
    key: str = ""
    """File of `penstock keys add`: this producer's key. Empty for links without keys."""
    model: str = "tiny"
    """A diffusers text-to-image folder, a hub id, or `tiny`: the model that comes with Penstock."""
    images: str = ""
    """Serve real images instead of a model's: a folder, tars, Parquet files, `hf:NAME` or `toyworld`."""
    images_split: str = ""
    """Split of `images`, such as `train`; empty where it has none."""
    name: str = ""
    """Name in logs and metrics; HOST-PID if empty."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    devices: str = ""
    """One producer a device, from one command: `all` GPUs, or a list such as `0,2,5`, `0-3` or `cpu,cpu`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic; `auto` is float16 on a GPU, bfloat16 on a CPU that computes in it, else float32."""
    backend: Literal["eager", "xformers", "inductor", "tensorrt", "paced"] = "eager"
    """How the networks are run; `penstock doctor` says which work here. `paced` generates nothing and sleeps: to
    rehearse a fleet without its devices."""
    tensorrt_level: int = 3
    """Backend `tensorrt`: 0 to 5. Higher tries more kernels: longer to compile, perhaps faster to run."""
    tensorrt_float32_sums: bool = True
    """Backend `tensorrt`: matrix products of float16 are summed in float32. Off may be faster and is less exact."""
    tensorrt_cuda_graphs: bool = True
    """Backend `tensorrt`: calls are recorded as CUDA graphs and replayed. Off where a card or driver refuses it."""
    tensorrt_offload: bool = False
    """Backend `tensorrt`: weights wait on the host while it compiles, for GPUs that cannot hold both."""
    tensorrt_fp8: bool = False
    """Backend `tensorrt`: weights and activations in 8 bits, by ModelOpt. Look at the images before you trust them."""
    paced_images_per_s: float = 1.25
    """Pace of backend `paced`: images that it makes a second, as it were."""
    batch_images: int = 32
    """Rows of every call of the denoiser; the last is padded to it, so that a ticket's company changes no bit. A guided
    image takes two rows a step."""
    decode_images: int = 8
    """Images that the autoencoder decodes at a time. Higher takes more memory, and time only where it is tiny."""
    tiny_autoencoder: str = ""
    """Folder or hub id of a distilled autoencoder (TAESD) to decode with: faster, and other pixels. Empty for the
    model's own."""
    diversity_encoder: str = ""
    """Folder of a vision model (DINOv2, CLIP, ...) by whose features the diversity within groups is measured; empty for
    mean colours on a grid, which tell only whether images are nearly the same."""
    scorer: str = ""
    """What scores images for runs that filter them: a CLIP- or SigLIP-like folder, a hub id or `toyworld`. Empty serves
    only runs that do not filter."""
    threads: int = 0
    """CPU threads; 0 is torch's choice, with `devices` an equal share. Processes that share cores want 1 each."""
    batch_wait_s: float = 2.0
    """Seconds that an incomplete batch waits for more tickets. Higher makes less padding and more delay."""
    credit_groups: int = 16
    """Tickets held, over all ranks, which share them evenly; each gets one at least. Two batches keep the engine busy;
    more adds only delay."""
    max_ranks: int = 0
    """Ranks to serve at first, drawn by the producer's name; 0 for 16, or `credit_groups` where that is more. One that
    has nothing to do serves more. Higher means more and longer queues, and more connections."""
    credit_bytes: int = MAX_GROUP_BYTES
    """Bytes of groups held for each rank: the second bound beside `credit_groups`, for large groups."""
    codec: Literal["raw", "jpeg"] = "raw"
    """How images travel; `jpeg` is for slow links: a tenth of the bytes, and slightly other pixels."""
    jpeg_quality: int = 92
    """Quality of `codec jpeg`, 1 to 100. Higher makes finer images of more bytes."""
    drain_timeout_s: float = 25.0
    """Seconds to finish what is begun after SIGTERM. Stay below the grace that your scheduler gives."""
    trainer_timeout_s: float = 600.0
    """Seconds without any trainer before the producer gives up."""
    metrics: str = ""
    """HOST:PORT, or a port of this machine, where the producer serves its metrics to Prometheus; with `devices` each
    takes the next port. Empty for none."""
    metrics_token_file: str = ""
    """File of the token that readers of the metrics must bring, where others can reach them; if empty the
    environment's PENSTOCK_METRICS_TOKEN."""
    metrics_insecure: bool = False
    """Let everyone who reaches the metrics read them, without a token. Only on a network that you trust."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Those of `connect`."""
        return tuple(part.strip() for part in self.connect.split(","))

    def __post_init__(self) -> None:
        require(self.batch_images >= 1, "batch_images must be >= 1", self.batch_images)
        require(self.decode_images >= 1, "decode_images must be >= 1", self.decode_images)
        require(0 <= self.tensorrt_level <= 5, "tensorrt_level must be in [0, 5]", self.tensorrt_level)
        require(0 < self.paced_images_per_s < inf, "paced_images_per_s must be > 0", self.paced_images_per_s)
        require(
            not self.devices or self.device == "auto", "device must be auto beside devices (--device auto)", self.device
        )
        require(not self.images or self.backend == "eager", "backend must be left out beside images", self.backend)
        require(not self.images or not self.devices, "devices must be left out beside images", self.devices)
        require(not self.scorer or not self.images, "scorer must be left out beside images", self.scorer)
        require(bool(self.images) or not self.images_split, "images_split needs images", self.images_split)
        require(self.threads >= 0, "threads must be >= 0", self.threads)
        require(self.batch_wait_s >= 0, "batch_wait_s must be >= 0", self.batch_wait_s)
        require(self.credit_groups >= 1, "credit_groups must be >= 1", self.credit_groups)
        require(self.max_ranks >= 0, "max_ranks must be >= 0", self.max_ranks)
        require(self.credit_bytes >= 1, "credit_bytes must be >= 1", self.credit_bytes)
        require(1 <= self.jpeg_quality <= 100, "jpeg_quality must be in [1, 100]", self.jpeg_quality)
        require(0 <= self.drain_timeout_s < inf, "drain_timeout_s must be a finite number >= 0", self.drain_timeout_s)
        require(len(self.name) <= MAX_NAME_LENGTH, f"name must have at most {MAX_NAME_LENGTH} characters", self.name)
        require(self.trainer_timeout_s > 0, "trainer_timeout_s must be > 0", self.trainer_timeout_s)
        if self.metrics:
            parse_address(self.metrics, "metrics")
