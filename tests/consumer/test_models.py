"""Encoder, heads and the network of them. Statistics across ranks: tests/kernels/test_ranks.py."""

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTModel

from penstock.consumer.learning_config import ModelConfig, ObjectiveConfig, TextConfig
from penstock.consumer.models import build_encoder
from penstock.consumer.network import Network
from penstock.consumer.objectives import Objective, build_objective
from penstock.consumer.projection_head import LayerNormHead, ProjectionHead, ViewBatchNorm
from penstock.consumer.terms import ImageContrast, Targets

torch.set_num_threads(1)


def tiny_encoder() -> ViTModel:
    torch.manual_seed(0)
    return build_encoder(16, 8, 12, 2, 3)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_encoder_has_the_asked_shape_and_no_pooler() -> None:
    encoder = tiny_encoder()
    assert encoder.pooler is None
    config = encoder.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.intermediate_size) == (2, 3, 48)
    output = encoder(pixel_values=normal(2, 3, 16, 16, dtype=torch.float32))
    assert output.last_hidden_state.shape == (2, 1 + 4, 12)


def test_initializer_range_sets_the_spread_of_the_weights() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(16, 8, 96, 1, 4, initializer_range=0.1)
    weights = [module.weight for module in encoder.modules() if isinstance(module, nn.Linear)]
    assert weights
    for weight in weights:
        assert weight.std().item() == pytest.approx(0.1, rel=0.05)


def test_encoder_rejects_sizes_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="image_size must be a multiple of patch_size, got 32 and 5"):
        build_encoder(32, 5, 96, 4, 4)
    with pytest.raises(ValueError, match="hidden_size must be a multiple of num_heads, got 96 and 5"):
        build_encoder(32, 8, 96, 4, 5)


@pytest.mark.parametrize("num_views", [1, 2, 4])
def test_view_batch_norm_equals_torchs_applied_to_each_view(num_views: int) -> None:
    ours, torchs = ViewBatchNorm(6).double(), nn.BatchNorm1d(6).double()
    for norm in (ours, torchs):
        with torch.no_grad():
            norm.weight.copy_(normal(6, seed=1))
            norm.bias.copy_(normal(6, seed=2))
    x = normal(5 * num_views, 6).requires_grad_()
    upstream = normal(5 * num_views, 6, seed=3)
    for _ in range(2):  # running statistics: one update for each view, in order
        ours_out = ours(x, num_views)
        torchs_out = torch.stack([torchs(x[view::num_views]) for view in range(num_views)], dim=1).flatten(0, 1)
    parameters = [(norm.weight, norm.bias) for norm in (ours, torchs)]
    torch.testing.assert_close(ours_out, torchs_out, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(ours_out, (x, *parameters[0]), upstream),
        torch.autograd.grad(torchs_out, (x, *parameters[1]), upstream),
        rtol=0,
        atol=1e-12,
    )
    torch.testing.assert_close(ours.running_mean, torchs.running_mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.running_var, torchs.running_var, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.eval()(x, num_views), torchs.eval()(x), rtol=0, atol=1e-12)


def test_view_batch_norm_gradcheck() -> None:
    norm = ViewBatchNorm(3).double()
    assert torch.autograd.gradcheck(lambda x: norm(x, 2), normal(6, 3).requires_grad_())


def test_view_batch_norm_keeps_float32_statistics_under_autocast() -> None:
    norm, x = ViewBatchNorm(4), 100 + normal(64, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = norm(x, 2)
    assert output.dtype == torch.bfloat16
    assert norm.running_mean.dtype == torch.float32
    views = x.float().view(32, 2, 4)
    expected = (views - views.mean(0)) / (views.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(output.float(), expected.view(64, 4), rtol=0, atol=2e-2)


def test_head_equals_the_published_arithmetic() -> None:
    # Reference: every view goes through Linear, BN, ReLU, Linear, BN, ReLU, Linear on its own.
    head = ProjectionHead(5, 8, 3).double()
    x, num_views = normal(12, 5), 3
    published = nn.Sequential(
        nn.Linear(5, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 3),
    ).double()
    for name, module in (("0", "layer1"), ("1", "bn1"), ("3", "layer2"), ("4", "bn2"), ("6", "layer3")):
        published.get_submodule(name).load_state_dict(head.get_submodule(module).state_dict(), strict=False)
    expected = torch.stack([published(x[view::num_views]) for view in range(num_views)], dim=1).flatten(0, 1)
    torch.testing.assert_close(head(x, num_views), expected, rtol=0, atol=1e-12)


def _targets(num_groups: int, num_images: int) -> Targets:
    samples = torch.arange(num_groups * num_images).reshape(num_groups, num_images)
    return Targets(torch.arange(num_groups), samples, torch.full((num_groups,), -1))


def test_network_compares_projected_cls_tokens_and_trains_every_parameter() -> None:
    encoder, head = tiny_encoder(), ProjectionHead(12, 8, 3)
    objective = Objective({"image": (ImageContrast(head, positives="prompt", temperature=0.5), 1.0)})
    images = normal(8, 3, 16, 16, dtype=torch.float32)
    losses = Network(encoder, objective)(images, None, _targets(4, 2))
    unit = nn.functional.normalize(head(encoder(pixel_values=images).last_hidden_state[:, 0], 2), dim=1)
    logits = (unit @ unit.T / 0.5).masked_fill(torch.eye(8, dtype=torch.bool), -torch.inf)
    # With two images a group every row has one positive, its neighbour.
    torch.testing.assert_close(losses["loss"], nn.functional.cross_entropy(logits, torch.arange(8) ^ 1))
    losses["loss"].backward()
    assert all(p.grad is not None for p in (*encoder.parameters(), *head.parameters())), "DDP forbids unused parameters"


def test_network_wants_the_towers_that_its_objective_reads_and_no_others() -> None:
    def objective(name: str) -> Objective:
        config = ObjectiveConfig(name=name)  # type: ignore[arg-type]
        return build_objective(config, ModelConfig(head_hidden_size=8, head_out_size=4), TextConfig(), 12, 10)

    for name in ("clip", "stablerep+"):
        with pytest.raises(ValueError, match="a text tower where the objective reads captions, and only there"):
            Network(tiny_encoder(), objective(name))
    with pytest.raises(ValueError, match="a teacher where the objective has one, and only there"):
        Network(tiny_encoder(), objective("synclr"))
    with pytest.raises(ValueError, match="a text tower where"):
        Network(tiny_encoder(), objective("stablerep"), tiny_encoder())


def test_network_refuses_rows_that_are_no_whole_groups() -> None:
    objective = Objective({"image": (ImageContrast(ProjectionHead(12, 8, 3), positives="prompt", temperature=0.5), 1)})
    with pytest.raises(ValueError, match="rows must be whole groups, got 7 for 2 groups of 3"):
        Network(tiny_encoder(), objective)(normal(7, 3, 16, 16, dtype=torch.float32), None, _targets(2, 3))


def test_layer_norm_head_is_the_published_one() -> None:
    # google-research/syn-rep-learn, SynCLR/train_pytorch/models/head.py: Linear, LayerNorm, GELU, twice; no last bias.
    head, x = LayerNormHead(5, 8, 3).double(), normal(12, 5)
    published = nn.Sequential(
        *(nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU()),
        *(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU()),
        nn.Linear(8, 3, bias=False),
    ).double()
    published.load_state_dict(head.layers.state_dict())
    rows = published(x)
    expected = (rows - rows.mean(dim=1, keepdim=True)) / (rows.var(dim=1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    for num_views in (1, 3, 12):
        torch.testing.assert_close(head(x, num_views), expected, rtol=0, atol=1e-12)
    plain = LayerNormHead(5, 8, 3, num_layers=2, norm_output=False)
    assert [type(layer) for layer in plain.layers] == [nn.Linear, nn.LayerNorm, nn.GELU, nn.Linear]


def test_a_predictor_has_one_layer_less_and_normalises_by_view_too() -> None:
    head, x = ProjectionHead(5, 8, 3, num_layers=2, norm_output=True).double(), normal(12, 5)
    rows = x @ head.layer1.weight.T + head.layer1.bias

    def by_view(rows: Tensor) -> Tensor:
        views = rows.reshape(6, 2, -1)
        return ((views - views.mean(0)) / (views.var(0, unbiased=False) + 1e-5).sqrt()).reshape(12, -1)

    expected = by_view(by_view(rows).relu() @ head.layer2.weight.T + head.layer2.bias)
    torch.testing.assert_close(head(x, 2), expected, rtol=0, atol=1e-12)
    assert not hasattr(head, "layer3")


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_rows_that_are_no_numbers_leave_the_running_statistics_numbers(broken: float) -> None:
    norm, x = ViewBatchNorm(2), normal(8, 2, dtype=torch.float32)
    x[3, 1] = broken
    norm(x, 2)
    assert norm.running_mean.isfinite().all()
    assert norm.running_var.isfinite().all()
    assert norm.running_mean[1] != 0, "the view that is whole counts"
    assert norm.running_mean[0] != 0


def test_batch_norm_rejects_what_it_cannot_normalise() -> None:
    norm = ViewBatchNorm(4)
    with pytest.raises(ValueError, match="whole groups of num_views, got 5 rows and num_views 2"):
        norm(torch.zeros(5, 4), 2)
    with pytest.raises(ValueError, match="at least 2 groups in training, got 1"):
        norm(torch.zeros(2, 4), 2)


def test_a_normed_output_has_zero_mean_and_unit_variance_in_every_view() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(8, 16, 4, norm_output=True).train()
    views = head(torch.randn(32 * 3, 8), 3).reshape(32, 3, 4)
    assert views.mean(dim=0).abs().max() < 1e-5
    assert views.var(dim=0, unbiased=False).sub(1).abs().max() < 1e-2
    assert head.bn3 is not None
    assert ProjectionHead(8, 16, 4).bn3 is None


def test_both_attentions_compute_the_same_features() -> None:
    torch.manual_seed(0)
    fused = build_encoder(16, 8, 16, 2, 2, attention="sdpa").eval()
    plain = build_encoder(16, 8, 16, 2, 2, attention="eager").eval()
    plain.load_state_dict(fused.state_dict())
    pixels = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(
        plain(pixel_values=pixels).last_hidden_state, fused(pixel_values=pixels).last_hidden_state, atol=1e-5, rtol=0
    )


def test_a_training_pass_draws_no_random_numbers() -> None:
    """Else a resumed run with another number of ranks, whose random states are new, would be another run."""
    objective = Objective({"image": (ImageContrast(ProjectionHead(16, 32, 8), positives="prompt", temperature=0.1), 1)})
    network = Network(build_encoder(16, 8, 16, num_layers=1, num_heads=2), objective).train()
    pixels, targets = torch.rand(8, 3, 16, 16), _targets(4, 2)
    before = torch.get_rng_state()
    first = network(pixels, None, targets)["loss"]
    first.backward()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(999)
    assert torch.equal(network(pixels, None, targets)["loss"], first)
