"""Makes `reference_goldens.npz`: five steps, and the rules, of StableRep's and SynCLR's published code.

    git clone https://github.com/google-research/syn-rep-learn REPO        # or a bare mirror of it
    python tests/consumer/make_reference_goldens.py REPO tests/consumer/reference_goldens.npz

The code is read from REPO at run time; nothing of it is kept here. StableRep's own `main` runs: its parser with the
README's flags, learning rate, weight-decay groups, loop, losses and clamp, on the CPU in float64. What stands in:

- a linear layer and a tanh for timm's ViT, and a token's embedding for the text tower, so that the file is small;
- fixed random pixels for the data set, so torchvision, clip and the like are not needed;
- BatchNorm1d for SyncBatchNorm, which wants CUDA: in one process they are the same;
- a gloo group of one process, because the losses gather whatever the number of processes.

SynCLR's `main` wants its whole transformer; its heads, loss, schedules and teacher are called here in `main`'s order.
Row k of a caption is its k-th view. Names of weights are Penstock's; matrices that the reference multiplies from the
right are transposed.
"""

import contextlib
import copy
import os
import subprocess
import sys
import tarfile
import tempfile
import types
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # autocast and the scaler of gradients are then off, as float64 wants

import numpy as np
import torch
from torch import nn

CAPTIONS, VIEWS, STEPS, SIDE = 5, 6, 5, 3
WIDTH, HIDDEN, OUT, TEXT_WIDTH, WORDS, EMBEDDING = 12, 16, 8, 10, 32, 6
RECIPE = ["--weight_decay", "0.1", "--beta1", "0.9", "--beta2", "0.98"]
TOY = ["--batch_size", str(CAPTIONS), "--epochs", "1", "--warmup_epochs", "0.4", "--blr", "0.2", "--num_workers", "0",
       "--ssl-mlp-dim", str(HIDDEN), "--ssl-emb-dim", str(OUT), "--device", "cpu", "--print_freq", "1000"]  # fmt: skip
WORLD_SIZE, BATCH_SIZE = 32, 43
RUNS = {
    "stablerep": ["--n_img", str(VIEWS)],
    "stablerep+": ["--n_img", str(VIEWS), "--add_language"],
    "simclr": ["--n_img", "1", "--num_crop", "2"],
    "clip": ["--n_img", "1", "--add_language", "--ssl-w1", "0"],
}
"""What else each run is told. With one image a caption and no contrast among images StableRep+ is CLIP."""
SCHEDULES = {
    "cc12m-1x": (15, 0.5, 7267),
    "cc12m-2x": (31, 1.0, 7267),
    "cc12m-3x": (46, 1.5, 7267),
    "redcaps-1x": (13, 0.45, 8430),
    "redcaps-2x": (27, 0.9, 8430),
    "redcaps-3x": (40, 1.35, 8430),
}
"""The README's --epochs and --warmup_epochs, and the steps of an epoch of 10.0 M and 11.6 M captions."""

Arrays = dict[str, np.ndarray]


class StandIn(types.ModuleType):
    """A module of which every name is a function that takes anything and returns None."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


class Writer:
    """Tensorboard's, of which only the curves are kept."""

    curves: dict[str, list[float]] = {}  # noqa: RUF012

    def __init__(self, log_dir: str) -> None:
        self.curves.clear()

    def add_scalar(self, name: str, value: float, _: int) -> None:
        self.curves.setdefault(name, []).append(value)

    def flush(self) -> None:
        pass


def vit_base() -> nn.Module:
    """The parameters of timm 0.5.4's `vit_base_patch16_224`, by name and shape."""
    vit = nn.Module()
    vit.cls_token, vit.pos_embed = nn.Parameter(torch.empty(1, 1, 768)), nn.Parameter(torch.empty(1, 197, 768))
    vit.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 768, 16, 16)})
    vit.blocks = nn.Sequential(
        *(
            nn.ModuleDict({
                "norm1": nn.LayerNorm(768),
                "attn": nn.ModuleDict({"qkv": nn.Linear(768, 2304), "proj": nn.Linear(768, 768)}),
                "norm2": nn.LayerNorm(768),
                "mlp": nn.ModuleDict({"fc1": nn.Linear(768, 3072), "fc2": nn.Linear(3072, 768)}),
            })
            for _ in range(12)
        )
    )  # fmt: skip
    vit.norm = nn.LayerNorm(768)
    return vit


def tiny_encoder() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, WIDTH), nn.Tanh())


def install_stand_ins() -> None:
    names = ["torchvision", "torchvision.transforms", "clip", "PIL", "torch.utils.tensorboard", "timm"]
    names += ["timm.models", "timm.models.layers", "timm.models.layers.helpers", "timm.models.helpers"]
    names += ["timm.models.vision_transformer", "torch._six"]
    for name in names:
        sys.modules[name] = StandIn(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    sys.modules["timm"].create_model = lambda name, **kwargs: vit_base()
    sys.modules["torch.utils.tensorboard"].SummaryWriter = Writer
    sys.modules["torch._six"].inf = float("inf")
    nn.SyncBatchNorm = nn.BatchNorm1d
    torch.cuda.synchronize = lambda: None
    torch.set_default_dtype(torch.float64)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)


@contextlib.contextmanager
def source_of(repo: Path) -> Iterator[tuple[Path, str]]:
    """The folder of the reference's files, and its commit."""
    git = ["git", "-C", str(repo)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    # Not the whole tree: a mirror may lack the large files.
    wanted = [f"StableRep/{name}" for name in ("main_stablerep.py", "models", "util", "dataset")]
    wanted.append("SynCLR/train_pytorch")
    archive = subprocess.run([*git, "archive", commit, *wanted], check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        yield Path(folder), commit


def use(folder: Path) -> None:
    """Import the reference's modules from `folder`: both of its programs have a `models` and a `util`."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("models", "util", "dataset")]:
        del sys.modules[name]
    sys.path[:0] = [str(folder)]


class Pixels(torch.utils.data.Dataset):
    """In the place of the reference's data set; notes which captions are taken, in order."""

    def __init__(
        self, *, tokenizer: object = None, num_views: int = VIEWS, num_crop: int = 1, **settings: object
    ) -> None:
        generator = np.random.default_rng(7)
        shape = (CAPTIONS * STEPS, 3 * VIEWS, SIDE, SIDE)
        images = torch.from_numpy(generator.standard_normal(shape).astype(np.float32)).double()
        self.images = images[:, : 3 * num_views * num_crop]
        self.words = torch.from_numpy(generator.permutation(WORDS)[: len(self.images), None].copy())
        self.has_text = tokenizer is not None
        self.taken: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        self.taken.append(index)
        return (self.images[index], *([self.words[index]] if self.has_text else []), index)


def rounded(model: nn.Module) -> nn.Module:
    """Weights that float32 can hold."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.float())
    return model


def our_state(model: nn.Module, dtype: type) -> Arrays:
    """Weights and running statistics by Penstock's names."""
    names = {"visual.1.": "encoder.1.", "image_mlp.": "head.", "token_embedding.": "text."}
    arrays = {}
    for name, value in model.state_dict().items():
        if name.startswith(("transformer.", "ln_final.", "positional")) or name.endswith("num_batches_tracked"):
            continue
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        is_product = name.endswith("_projection")
        array = (value.T if is_product else value).detach().numpy().astype(dtype)
        arrays[name + (".weight" if is_product else "")] = array
    return arrays


def train_stablerep(run: str) -> Arrays:
    """Five steps of the reference's `main`."""
    import main_stablerep as program
    from models.StableRep import VisionEncoder
    from models.StableRepMM import VisionTextEncoder

    class TokenEncoder(VisionTextEncoder):
        def encode_text(self, text: torch.Tensor) -> torch.Tensor:
            return self.token_embedding(text[:, 0])

    language = "--add_language" in RUNS[run]
    made: dict[str, Any] = {}

    def build(**settings: Any) -> nn.Module:
        torch.manual_seed(3)
        sizes = {"vision_width": WIDTH, "vision_model": tiny_encoder(), "context_length": 1, "vocab_size": WORDS}
        sizes |= {"transformer_width": TEXT_WIDTH, "transformer_heads": 1, "transformer_layers": 1}
        model = rounded((TokenEncoder if language else VisionEncoder)(**sizes, embed_dim=EMBEDDING, **settings))
        made["model"], made["start"] = model, our_state(model, np.float32)
        return model

    def pixels(**settings: Any) -> Pixels:
        made["data"] = Pixels(**settings)
        return made["data"]

    program.v_model_dict = program.vt_model_dict = {"base": build}
    program.SupconDataset = pixels
    # Averages over processes that the curves do not need, and that are made on a GPU.
    program.misc.MetricLogger.synchronize_between_processes = lambda self: None
    with tempfile.TemporaryDirectory() as output:
        flags = [*RECIPE, *TOY, *RUNS[run], "--output_dir", output, "--log_dir", output]
        program.main(program.get_args_parser().parse_args(flags))
    data: Pixels = made["data"]
    arrays = {"taken": np.array(data.taken).reshape(STEPS, CAPTIONS), "lr": np.array(Writer.curves["lr"])}
    arrays |= {"loss": np.array(Writer.curves["train_loss"])}
    if language:
        arrays["scale"] = np.array(Writer.curves["logit"])
    arrays |= {f"start/{name}": array for name, array in made["start"].items()}
    arrays |= {f"end/{name}": array for name, array in our_state(made["model"], np.float64).items()}
    # CLIP has no head; here its weights only decay.
    return {name: array for name, array in arrays.items() if run != "clip" or "/head." not in name}


def clamped_scale() -> Arrays:
    """Logit scales after steps that would take them out of their bounds, up and down."""
    import main_stablerep as program

    model = nn.Module()
    model.logit_scale = nn.Parameter(torch.tensor(4.6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    args = program.get_args_parser().parse_args([*RECIPE, *TOY, "--add_language", "--blr", "1", "--lr", "1"])
    args.log_dir = None
    scales = []
    for slope in (-1.0, 1.0):
        model.forward = lambda *inputs, slope=slope: {"loss": slope * 9.0 * model.logit_scale}
        data = [(torch.zeros(CAPTIONS, 1), torch.zeros(CAPTIONS, 1))] * 3
        program.train_one_epoch(
            model, data, optimizer, torch.device("cpu"), 0, program.NativeScaler(), lambda outputs: outputs, None, args
        )
        scales.append(model.logit_scale.item())
    return {"bounds": np.array(scales)}


def schedules() -> Arrays:
    """Peak and rates of the README's schedules at 40 steps of each, by the reference's `main` and its schedule."""
    import main_stablerep as program

    class HasRateError(Exception):
        pass

    def stop(*args: Any) -> None:
        raise HasRateError

    program.misc.get_world_size, program.misc.add_weight_decay = lambda: WORLD_SIZE, stop
    program.v_model_dict = {"base": lambda **settings: nn.Identity()}
    arrays: Arrays = {}
    for name, (epochs, warmup_epochs, steps_per_epoch) in SCHEDULES.items():
        flags = [
            *RECIPE,
            *RUNS["stablerep"],
            "--batch_size",
            str(BATCH_SIZE),
            "--blr",
            "2.0e-4",
            "--device",
            "cpu",
            "--num_workers",
            "0",
        ]
        args = program.get_args_parser().parse_args(
            [*flags, "--epochs", str(epochs), "--warmup_epochs", str(warmup_epochs)]
        )
        args.log_dir = None
        with contextlib.suppress(HasRateError):
            program.main(args)
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)
        steps = np.linspace(0, epochs * steps_per_epoch - 1, 40).astype(np.int64)
        rates = []
        for epoch, step in zip(*np.divmod(steps, steps_per_epoch), strict=True):
            program.misc.adjust_learning_rate(optimizer, int(step) / steps_per_epoch + int(epoch), args)
            rates.append(optimizer.param_groups[0]["lr"])
        arrays |= {f"{name}/steps": steps, f"{name}/lr": np.array(rates), f"{name}/peak": np.array(args.lr)}
    return arrays


def decay_groups() -> Arrays:
    """Names that weight decay takes and spares, of ViT-B/16 with the language tower."""
    from models.StableRepMM import model_dict
    from util.misc import add_weight_decay

    with torch.device("meta"):
        model = model_dict["base"](ssl_mlp_dim=4096, ssl_emb_dim=256, vl_projection="linear")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = add_weight_decay(model, 0.1)
    if (decayed["weight_decay"], spared["weight_decay"]) != (0.1, 0):
        raise SystemExit("the reference's groups are not in the order that this script knows")
    groups = {"decayed": decayed, "spared": spared}
    return {key: np.array([names[id(p)] for p in group["params"]]) for key, group in groups.items()}


def text_features() -> Arrays:
    """Features of texts by a narrow text tower of the reference's, whose weights bear `transformers`' names.

    In float32, to which its LayerNorm casts whatever it gets.
    """
    from models.StableRepMM import VisionTextEncoder

    torch.manual_seed(11)
    sizes = {"context_length": 9, "vocab_size": WORDS, "transformer_width": 16, "transformer_heads": 2}
    sizes |= {"vision_width": 2, "vision_model": nn.Identity(), "ssl_mlp_dim": 2, "ssl_emb_dim": 2, "embed_dim": 2}
    tower = VisionTextEncoder(**sizes, transformer_layers=2, vl_projection="linear").float()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    tokens = torch.randint(1, WORDS - 1, (5, 9))
    for text, end in zip(tokens, (2, 8, 5, 3, 7), strict=True):
        text[end], text[end + 1 :] = WORDS - 1, 0
    arrays = {"tokens": tokens.numpy(), "features": tower.encode_text(tokens).detach().numpy()}
    names = {"transformer.resblocks": "encoder.layers", "attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1"}
    names |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "ln_2": "layer_norm2", "ln_final": "final_layer_norm"}
    names |= {"token_embedding": "embeddings.token_embedding"}
    names |= {"positional_embedding": "embeddings.position_embedding.weight"}
    for name, value in tower.state_dict().items():
        if not name.startswith(("transformer.", "ln_final.", "token", "positional")):
            continue
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        parts = {name: value}
        if "attn.in_proj_" in name:
            thirds = zip(("q_proj.", "k_proj.", "v_proj."), value.chunk(3), strict=True)
            parts = {name.replace("attn.in_proj_", f"self_attn.{third}"): part for third, part in thirds}
        arrays |= {part: array.numpy().astype(np.float32) for part, array in parts.items()}
    return arrays


def train_synclr() -> Arrays:
    """Five steps of SynCLR's contrast without local crops, masks and iBOT, in the order of its `main`."""
    from models.head import build_contrast_head
    from models.mask_losses import SupConMomentumLoss
    from synclr_meta_arch import MetaArch
    from util import lr_sched, misc

    flags = {"epochs": 1, "warmup_epochs": 0.4, "lr": 0.01, "min_lr": 0.0}
    flags |= {"moco_m": 0.994, "moco_m_final": 1.0, "moco_m_epochs": 1, "moco_m_linear": False}
    flags |= {"contrast_mlp_dim": HIDDEN, "contrast_output_dim": OUT, "contrast_mlp_norm": "ln"}
    args = types.SimpleNamespace(**flags)
    torch.manual_seed(5)
    proj, pred, teacher_proj = build_contrast_head(args, WIDTH)
    # The published spread of 0.02 makes rows of this width so alike that five steps would test nothing.
    student = rounded(nn.ModuleDict({"backbone": tiny_encoder(), "proj": proj, "pred": pred}))
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name.startswith("pro") and parameter.ndim == 2:
                parameter.mul_(16)
    teacher = nn.ModuleDict({"backbone": copy.deepcopy(student["backbone"]), "proj": teacher_proj})
    teacher["proj"].load_state_dict(student["proj"].state_dict())
    teacher.requires_grad_(False)
    whole = types.SimpleNamespace(student=student, teacher=teacher, momentum_module=["backbone", "proj"])
    optimizer = torch.optim.AdamW(misc.add_weight_decay(student, 0.1), lr=args.lr, betas=(0.9, 0.98))
    criterion = SupConMomentumLoss(temperature=0.1, avoid_local_global_same=False)
    data = Pixels()
    start = {name: value.numpy().astype(np.float32) for name, value in student.state_dict().items()}
    curves: dict[str, list[float]] = {"loss": [], "lr": [], "decay": []}
    for step in range(STEPS):
        curves["lr"].append(lr_sched.adjust_learning_rate(optimizer, step / STEPS, args))
        curves["decay"].append(misc.adjust_moco_momentum_v2(step / STEPS, args))
        batch = data.images[step * CAPTIONS : (step + 1) * CAPTIONS]
        images = torch.cat(torch.split(batch, 3, dim=1))
        labels = torch.arange(CAPTIONS).repeat(VIEWS)
        rows = {"student_contrast_cls": pred(proj(student["backbone"](images))), "student_labels": labels}
        with torch.no_grad():
            rows |= {"teacher_contrast_cls": teacher_proj(teacher["backbone"](images)), "teacher_labels": labels}
        loss = criterion(rows)["total_contrast_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        MetaArch.update_teacher(whole, curves["decay"][-1])
        curves["loss"].append(loss.item())
    arrays = {name: np.array(values) for name, values in curves.items()}
    arrays |= {f"start/{name}": array for name, array in start.items()}
    ends = {"student": student, "teacher": teacher}
    return arrays | {f"{key}/{name}": v.numpy() for key, part in ends.items() for name, v in part.state_dict().items()}


def main(repo: Path, out: Path) -> None:
    """Write what the code in `repo` does to the file `out`."""
    install_stand_ins()
    with source_of(repo) as (folder, commit):
        use(folder / "StableRep")
        parts = {run: train_stablerep(run) for run in RUNS}
        parts |= {"text": text_features(), "clamp": clamped_scale(), "groups": decay_groups(), "schedule": schedules()}
        use(folder / "SynCLR" / "train_pytorch")
        parts["synclr"] = train_synclr()
    arrays = {f"{part}/{name}": array for part, named in parts.items() for name, array in named.items()}
    data = Pixels()
    arrays |= {"images": data.images.numpy().astype(np.float32), "words": data.words[:, 0].numpy()}
    np.savez_compressed(out, commit=np.array(commit), **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
