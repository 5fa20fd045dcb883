"""Objectives against the papers' formulas, row by row in float64. Their gradients over ranks: test_training_step.py."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.consumer.learning_config import ModelConfig, ObjectiveConfig, TextConfig
from penstock.consumer.objectives import Objective, build_objective
from penstock.consumer.projection_head import LayerNormHead, ProjectionHead
from penstock.consumer.terms import Features, Targets

torch.set_num_threads(1)

G, M, V, WIDTH = 3, 2, 2, 6
# Ids that differ in their last bits alone; groups 0 and 2 are of one prompt.
PROMPT_IDS = [2**62 + 1, 2**62, 2**62 + 1]
TARGETS = Targets(
    torch.tensor(PROMPT_IDS), torch.tensor([[70, 71], [40, 41], [2**50, 2**50 + 1]]), torch.tensor([2, 0, 2])
)
PLACES = [(group, image, view) for group in range(G) for image in range(M) for view in range(V)]
"""Of each row: by group, then image, then view."""
TEMPERATURE = 0.3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(name: str, *, head_norm: str = "batch", num_classes: int = 3, **objective: Any) -> Objective:
    torch.manual_seed(0)
    config = ObjectiveConfig(name=name, temperature=TEMPERATURE, **objective)  # type: ignore[arg-type]
    model = ModelConfig(head_hidden_size=8, head_out_size=4, head_norm=head_norm)  # type: ignore[arg-type]
    text = TextConfig(hidden_size=8, num_heads=2, out_size=4)
    return build_objective(config, model, text, WIDTH, num_classes).double()


def features(**others: Tensor) -> Features:
    return Features(draw(G, M, V, WIDTH), **others)


def softmax_loss(
    queries: Tensor, keys: Tensor, is_key: Callable[[int, int], bool], positive: Callable[..., bool]
) -> Tensor:
    """Mean over queries i of the cross-entropy between softmax over the keys and the uniform one over positives."""
    losses = []
    for i, query in enumerate(queries):
        among = [j for j in range(len(keys)) if is_key(i, j)]
        logits = keys[among] @ query
        matches = torch.tensor([float(positive(i, j)) for j in among], dtype=torch.float64)
        losses.append(-(matches / matches.sum().clamp(min=1) * logits.log_softmax(0)).sum())
    return torch.stack(losses).mean()


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def image_loss(embeddings: Tensor, positive: Callable[..., bool]) -> Tensor:
    return softmax_loss(unit(embeddings) / TEMPERATURE, unit(embeddings), lambda i, j: i != j, positive)


def same_prompt(i: int, j: int) -> bool:
    return PROMPT_IDS[PLACES[i][0]] == PROMPT_IDS[PLACES[j][0]]


def same_image(i: int, j: int) -> bool:
    return PLACES[i][:2] == PLACES[j][:2]


def normalised_apart(head: ProjectionHead, rows: Tensor, sets: Sequence[Sequence[int]]) -> Tensor:
    """What a head says where BatchNorm sees each of `sets` of rows alone."""
    layer = 1
    while (linear := getattr(head, f"layer{layer}", None)) is not None:
        rows = rows @ linear.weight.T + linear.bias
        if (norm := getattr(head, f"bn{layer}")) is not None:
            normed = torch.empty_like(rows)
            for chosen in sets:
                normed[list(chosen)] = F.batch_norm(rows[list(chosen)], None, None, norm.weight, norm.bias, True)
            rows = normed
        layer += 1
        if getattr(head, f"layer{layer}", None) is not None:
            rows = rows.relu()
    return rows


def rows_by(key: Callable[[tuple[int, int, int]], object]) -> list[list[int]]:
    keys = [key(place) for place in PLACES]
    return [[row for row, its in enumerate(keys) if its == value] for value in dict.fromkeys(keys)]


BY_IMAGE_AND_VIEW = rows_by(lambda place: place[1:])
"""Rows that StableRep normalises together: one of every group."""
BY_VIEW = rows_by(lambda place: place[2])
"""SimCLR's: one view of every image."""


class _Through(nn.Module):
    """A head that gives back what it is given."""

    def forward(self, rows: Tensor, num_views: int) -> Tensor:
        return rows


# --- stablerep -----------------------------------------------------------------------------------------------------


def test_stablerep_by_hand_images_of_one_prompt_are_positives_also_across_groups() -> None:
    # Groups 0 and 2 come from one prompt and lie on one axis, group 1 on the other. With e = exp(1 / 0.5):
    # the four rows lose log(3 e + 2) - 2 each, the two rows log(e + 4) - 2.
    axis_x, axis_y = [1.0, 0.0], [0.0, 1.0]
    embeddings = torch.tensor([axis_x, axis_x, axis_y, axis_y, axis_x, axis_x]).reshape(3, 2, 1, 2)
    objective = build_objective(ObjectiveConfig(temperature=0.5), ModelConfig(), TextConfig(), 2, 0)
    objective.terms["image"].head = _Through()
    targets = Targets(torch.tensor(PROMPT_IDS), torch.arange(6).reshape(3, 2), torch.full((3,), -1))
    losses = objective(Features(embeddings), targets)
    e = math.exp(2)
    assert losses.keys() == {"loss"}
    assert losses["loss"].item() == pytest.approx(
        (4 * (math.log(3 * e + 2) - 2) + 2 * (math.log(e + 4) - 2)) / 6, rel=1e-6
    )


def test_stablerep_is_the_papers_loss_and_normalises_like_images_of_all_groups_together() -> None:
    objective, given = build("stablerep"), features()
    head = objective.terms["image"].head
    expected = image_loss(normalised_apart(head, given.images.reshape(-1, WIDTH), BY_IMAGE_AND_VIEW), same_prompt)
    torch.testing.assert_close(objective(given, TARGETS)["loss"], expected, rtol=0, atol=1e-12)


def test_the_default_temperature_is_the_papers() -> None:
    assert ObjectiveConfig().temperature == 0.1


# --- simclr --------------------------------------------------------------------------------------------------------


def test_simclr_by_hand_images_of_one_prompt_are_negatives() -> None:
    # Two images of one prompt on two axes, two views of each: log(e^(1/t) + 2) - 1/t. Were the prompt's images
    # positives, each row would lose log(e^(1/t) + 2) - 1/(3t).
    rows = torch.eye(2).repeat_interleave(2, dim=0).reshape(1, 2, 2, 2)
    objective = build_objective(ObjectiveConfig(name="simclr", temperature=0.5), ModelConfig(), TextConfig(), 2, 0)
    objective.terms["image"].head = _Through()
    targets = Targets(torch.tensor([7]), torch.tensor([[70, 71]]), torch.tensor([-1]))
    assert objective(Features(rows), targets)["loss"].item() == pytest.approx(math.log(math.exp(2) + 2) - 2, rel=1e-6)


def test_simclr_is_ntxent_and_normalises_all_images_of_a_view_together() -> None:
    objective, given = build("simclr"), features()
    embeddings = normalised_apart(objective.terms["image"].head, given.images.reshape(-1, WIDTH), BY_VIEW)
    # SimCLR's NT-Xent (arXiv 2002.05709, eq. 1): cross-entropy with the other view as the class.
    logits = (unit(embeddings) @ unit(embeddings).T / TEMPERATURE).fill_diagonal_(-torch.inf)
    expected = F.cross_entropy(logits, torch.arange(len(PLACES)) ^ 1)
    torch.testing.assert_close(image_loss(embeddings, same_image), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(objective(given, TARGETS)["loss"], expected, rtol=0, atol=1e-12)


# --- clip and stablerep+ -------------------------------------------------------------------------------------------


def language_loss(objective: Objective, given: Features) -> Tensor:
    """The mean of both directions (arXiv 2103.00020, figure 3), where a caption has several images."""
    head = objective.terms["language"].head
    images = unit(given.images.reshape(-1, WIDTH) @ head.image_projection.weight.T)
    assert given.texts is not None
    texts, scale = unit(given.texts @ head.text_projection.weight.T), head.logit_scale.exp()
    matches = [[PROMPT_IDS[place[0]] == label for label in PROMPT_IDS] for place in PLACES]
    to_text = softmax_loss(scale * images, texts, lambda i, j: True, lambda i, j: matches[i][j])
    return (to_text + softmax_loss(scale * texts, images, lambda i, j: True, lambda i, j: matches[j][i])) / 2


def test_clip_compares_images_with_captions_alone_at_a_scale_that_is_learnt() -> None:
    objective, given = build("clip"), features(texts=draw(G, 8, seed=1))
    losses = objective(given, TARGETS)
    assert losses.keys() == {"loss"}
    assert objective.terms["language"].head.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-6)
    torch.testing.assert_close(losses["loss"], language_loss(objective, given), rtol=0, atol=1e-12)
    parameters = list(objective.parameters())
    for found, right in zip(
        *(torch.autograd.grad(loss, parameters) for loss in (losses["loss"], language_loss(objective, given))),
        strict=True,
    ):
        assert right.abs().sum() > 0
        torch.testing.assert_close(found, right, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("image_weight", "language_weight"), [(1.0, 1.0), (0.25, 3.0), (0.0, 2.0), (2.0, 0.0)])
def test_stablerep_plus_is_the_weighted_sum_of_its_two_contrasts(image_weight: float, language_weight: float) -> None:
    objective = build("stablerep+", image_weight=image_weight, language_weight=language_weight)
    given = features(texts=draw(G, 8, seed=1))
    rows = normalised_apart(objective.terms["image"].head, given.images.reshape(-1, WIDTH), BY_IMAGE_AND_VIEW)
    images, language = image_loss(rows, same_prompt), language_loss(objective, given)
    losses = objective(given, TARGETS)
    assert losses.keys() == {"loss", "image_loss", "language_loss"}
    torch.testing.assert_close(losses["image_loss"], images.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(losses["language_loss"], language.detach(), rtol=0, atol=1e-12)
    total = image_weight * images + language_weight * language
    torch.testing.assert_close(losses["loss"], total, rtol=0, atol=1e-12)
    assert not losses["image_loss"].requires_grad
    assert not losses["language_loss"].requires_grad


@pytest.mark.parametrize("name", ["clip", "stablerep+"])
@pytest.mark.parametrize(("log_scale", "scale"), [(9.0, 100.0), (-3.0, 1.0), (2.5, math.exp(2.5))])
def test_the_scale_stays_between_1_and_100_after_a_step(name: str, log_scale: float, scale: float) -> None:
    objective = build(name)
    head = objective.terms["language"].head
    head.logit_scale.data.fill_(log_scale)
    objective.after_step(0.5)
    # OpenCLIP clamps at log 100 = 4.605170..., the published code of StableRep at 4.6052.
    assert head.logit_scale.exp().item() == pytest.approx(scale, rel=1e-4)


@pytest.mark.parametrize("name", ["clip", "stablerep+"])
def test_captions_must_be_there_where_they_are_read(name: str) -> None:
    with pytest.raises(ValueError, match="a contrast with captions needs their features"):
        build(name)(features(), TARGETS)


# --- supervised ----------------------------------------------------------------------------------------------------


def test_supervised_is_the_cross_entropy_of_a_linear_classifier_of_the_concepts() -> None:
    objective, given = build("supervised"), features()
    classifier = objective.terms["classes"].classifier
    assert classifier.weight.shape == (3, WIDTH)
    losses = []
    for group, image, view in PLACES:
        logits = classifier.weight @ given.images[group, image, view] + classifier.bias
        losses.append(logits.exp().sum().log() - logits[[2, 0, 2][group]])
    # Logits are float32, whatever the towers say.
    torch.testing.assert_close(
        objective(given, TARGETS)["loss"].double(), torch.stack(losses).mean(), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("num_classes", [0, 1])
def test_supervised_without_concepts_says_so(num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"supervised needs prompts of at least 2 concepts, got {num_classes}"):
        build("supervised", num_classes=num_classes)


# --- synclr --------------------------------------------------------------------------------------------------------


def test_synclr_contrasts_the_students_prediction_with_what_the_teacher_says_of_other_images() -> None:
    objective, given = build("synclr"), features(teacher=draw(G, M, V, WIDTH, seed=2))
    term = objective.terms["teacher"]
    projected = normalised_apart(term.projector, given.images.reshape(-1, WIDTH), BY_IMAGE_AND_VIEW)
    student = normalised_apart(term.predictor, projected, BY_IMAGE_AND_VIEW)
    # As in MoCo v3 the teacher's projector normalises by the statistics of its own batch.
    assert given.teacher is not None
    teacher = normalised_apart(term.projector, given.teacher.reshape(-1, WIDTH), BY_IMAGE_AND_VIEW)
    expected = softmax_loss(unit(student) / TEMPERATURE, unit(teacher), lambda i, j: i != j, same_prompt)
    losses = objective(given, TARGETS)
    assert losses.keys() == {"loss"}
    torch.testing.assert_close(losses["loss"], expected.detach(), rtol=0, atol=1e-12, check_dtype=False)
    losses["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in term.teacher_projector.parameters())
    for part in (term.projector, term.predictor):
        assert all(p.grad is not None for p in part.parameters())


def test_the_teachers_projector_moves_by_the_decay_and_takes_the_buffers() -> None:
    objective = build("synclr", teacher_decay=0.9, teacher_decay_end=1.0)
    term = objective.terms["teacher"]
    teacher, student = term.teacher_projector.module, term.projector
    before = [p.detach().clone() for p in teacher.parameters()]
    torch.testing.assert_close(before, [p.detach() for p in student.parameters()], rtol=0, atol=0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1
    objective.train()
    objective(features(teacher=draw(G, M, V, WIDTH, seed=2)), TARGETS)
    assert not torch.equal(teacher.bn1.running_mean, student.bn1.running_mean)
    # Half of the run done: 1 - (1 - 0.9) (cos(pi / 2) + 1) / 2 = 0.95 stays.
    objective.after_step(0.5)
    torch.testing.assert_close(
        [p.detach() for p in teacher.parameters()], [p + 0.05 for p in before], rtol=0, atol=1e-12
    )
    for mine, its in zip(teacher.buffers(), student.buffers(), strict=True):
        assert torch.equal(mine, its)
    assert teacher.training
    assert not objective.eval().terms["teacher"].teacher_projector.module.training


def test_synclr_needs_its_teacher() -> None:
    with pytest.raises(ValueError, match="a contrast with a teacher needs its features"):
        build("synclr")(features(), TARGETS)


# --- all -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reads_text", "has_teacher"),
    [
        ("stablerep", False, False),
        ("stablerep+", True, False),
        ("simclr", False, False),
        ("clip", True, False),
        ("supervised", False, False),
        ("synclr", False, True),
    ],
)
def test_an_objective_says_what_it_needs(name: str, reads_text: bool, has_teacher: bool) -> None:
    objective = build(name)
    assert (objective.reads_text, objective.has_teacher) == (reads_text, has_teacher)
    assert ObjectiveConfig(name=name).reads_text is reads_text  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["stablerep", "stablerep+", "simclr", "synclr"])
def test_with_layer_norm_rows_do_not_know_of_each_other_in_the_heads(name: str) -> None:
    heads = [head for head in build(name, head_norm="layer").modules() if isinstance(head, LayerNormHead)]
    # The projector; synclr's also has a predictor of two layers and the teacher's projector.
    linears = [sum(isinstance(layer, nn.Linear) for layer in head.layers) for head in heads]
    assert linears == ([3, 2, 3] if name == "synclr" else [3])
    assert not [module for module in build(name, head_norm="layer").modules() if isinstance(module, ProjectionHead)]


def test_a_head_that_is_normed_at_its_end_is_asked_for_by_the_model() -> None:
    config = ModelConfig(head_hidden_size=8, head_out_size=4, head_norm_output=True)
    objective = build_objective(ObjectiveConfig(), config, TextConfig(), WIDTH, 0)
    assert objective.terms["image"].head.bn3 is not None
    assert build("stablerep").terms["image"].head.bn3 is None
