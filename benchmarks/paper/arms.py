"""What is compared: arms that differ in their objective, guidance or images a prompt, and in nothing else.

All arms of a seed have one budget. The reservoir is filled with `Budget.num_images` images before the first step, none
of them is used up, and every step trains on the same number of rows, so images, updates and rows a step are equal. With
`--order ticket` prompts, noise and the groups of every step follow from the seed: arms of one guidance and m see the
same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

NEVER = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What every arm may spend on a seed."""

    num_images: int = 2048
    """Images that are trained on; a multiple of `rows_per_step`, so that all of a step's lanes are alike."""
    lookahead_images: int = 128
    """Images that are made beside them, because the window is never empty; never trained on."""
    rows_per_step: int = 256
    """Views in an optimizer step."""
    num_steps: int = 300
    """Optimizer steps."""

    @property
    def num_generated(self) -> int:
        """Images that are made for an arm and a seed."""
        return self.num_images + self.lookahead_images

    @property
    def uses_per_image(self) -> float:
        """Mean number of rows made of each image, for objectives of one view and of two alike."""
        return self.num_steps * self.rows_per_step / self.num_images


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One row of the tables."""

    objective: str = "stablerep"
    guidance_scale: float = 2.0
    images_per_group: int = 4
    num_views: int = 1
    """Views of each image in a step."""
    base_lr: float = 4e-3
    """Learning rate for 512 rows a step."""
    teacher_decay: float = 0.994
    """Of SynCLR's teacher, at first; the others have none."""

    @property
    def name(self) -> str:
        """What identifies the arm: objective, guidance and m."""
        return f"{self.objective} w={self.guidance_scale:g} m={self.images_per_group}"

    @property
    def folder(self) -> str:
        """The same, as the name of a folder."""
        return self.name.replace(" ", "_").replace("=", "")

    def groups_per_step(self, budget: Budget) -> int:
        """Prompts in a step."""
        return budget.rows_per_step // (self.images_per_group * self.num_views)

    def flags(self, budget: Budget, seed: int) -> list[str]:
        """The settings, as flags of `penstock train`."""
        num_groups = budget.num_images // self.images_per_group
        settings = {
            "config": "demo",
            "seed": seed,
            "order": "ticket",
            "max-steps": budget.num_steps,
            "groups-per-step": self.groups_per_step(budget),
            "objective.name": self.objective,
            "objective.views-per-image": self.num_views,
            "objective.teacher-decay": self.teacher_decay,
            "optimizer.base-lr": self.base_lr,
            "generator.guidance-scale": self.guidance_scale,
            "generator.images-per-group": self.images_per_group,
            "stream.window-groups": budget.lookahead_images // self.images_per_group,
            "reservoir.capacity-groups": num_groups,
            # More than a group can get: the images stay the same to the end.
            "reservoir.reuse": budget.num_steps,
            "evaluation.every-steps": NEVER,
            "checkpoint-every-steps": NEVER,
            "fleet.local-producers": 0,
        }
        return [f"--{name}={value}" for name, value in settings.items()]


GUIDANCE_SCALES = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
GROUP_SIZES = (1, 2, 4, 8)

# Learning rates were chosen on validation scans with a seed that the tables do not have; see docs/science.md.
STABLEREP = Arm()
SIMCLR = Arm(objective="simclr", num_views=2, base_lr=8e-3)
STABLEREP_PLUS = Arm(objective="stablerep+")
CLIP = Arm(objective="clip", base_lr=2e-3)
SYNCLR = Arm(objective="synclr", teacher_decay=0.9)
SUPERVISED = Arm(objective="supervised")


def with_guidance(arm: Arm, guidance_scale: float) -> Arm:
    """The arm on images of another guidance."""
    return replace(arm, guidance_scale=guidance_scale)


def with_group_size(images_per_group: int) -> Arm:
    """StableRep with m images a prompt; with one, two views of it, that there be positives."""
    return Arm(images_per_group=images_per_group, num_views=2 if images_per_group == 1 else 1)


def units(*, full: bool) -> Sequence[Sequence[Arm]]:
    """All arms, those together that share images; the largest groups first, of which the smaller ones are parts."""
    if not full:
        return [[STABLEREP, SIMCLR]]
    same_images = [STABLEREP, SIMCLR, STABLEREP_PLUS, CLIP, SYNCLR, SUPERVISED]
    sizes = {size: [with_group_size(size)] for size in GROUP_SIZES} | {STABLEREP.images_per_group: same_images}
    curve = [
        [with_guidance(arm, scale) for arm in (STABLEREP, SIMCLR)]
        for scale in GUIDANCE_SCALES
        if scale != STABLEREP.guidance_scale
    ]
    return [[arm for size in sorted(sizes, reverse=True) for arm in sizes[size]], *curve]
