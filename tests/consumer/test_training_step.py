"""The optimizer step: whole or in parts, alone or on two ranks, and what guards it from gradients that are no numbers.

Gradients are read from AdamW's first moment, which after one step is (1 - beta1) times them.
"""

import copy
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from tests.consumer.step_rank_program import NUM_STEPS, PARTS, WORLD_SIZE, run
from tests.consumer.tiny_training import OBJECTIVES, Tiny, build_tiny, random_batch, tiny_config
from tests.faults.scene import free_port

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(300)  # importing torch twice on a busy machine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Accelerate keeps its state in the process; a test may ask for other arithmetic than the last."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def make(name: str, *, mixed_precision: str = "no", **settings: Any) -> Tiny:
    return build_tiny(tiny_config(name, **settings), Accelerator(cpu=True, mixed_precision=mixed_precision))


def close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Every tensor within `tolerance` of the largest element of all: some gradients are zero but for rounding."""
    assert found.keys() == expected.keys()
    largest = max(value.abs().max().item() for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance * largest, msg=lambda m, n=name: n + m)


# --- in parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [3, 4, 100])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_parts_give_the_losses_and_gradients_of_the_whole(name: str, parts: int) -> None:
    """Of 5 groups of 3 images in parts of 5 rows, of 4, 4, 4 and 3, and of one; captions in 2, 2 and 1."""
    whole = make(name, groups=5)
    in_parts = make(name, groups=5, grad_accum_steps=parts)
    for step in range(3):
        one, other = whole.train(step), in_parts.train(step)
        assert one.losses.keys() == other.losses.keys()
        for part, loss in one.losses.items():
            assert other.losses[part].item() == pytest.approx(loss.item(), rel=2e-5 if step == 0 else 1e-3)
        if step == 0:
            close(in_parts.gradients(), whole.gradients(), 1e-5)
            assert other.grad_norm.item() == pytest.approx(one.grad_norm.item(), rel=1e-5)
            assert max(gradient.abs().max().item() for gradient in whole.gradients().values()) > 1e-3
            running = [dict(tiny.network.named_buffers()) for tiny in (in_parts, whole)]
            for buffer, value in running[1].items():
                torch.testing.assert_close(running[0][buffer], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_parts_give_about_the_same_in_bfloat16(name: str) -> None:
    whole = make(name, mixed_precision="bf16")
    in_parts = make(name, mixed_precision="bf16", grad_accum_steps=4)
    losses = [tiny.train(0).losses["loss"].item() for tiny in (whole, in_parts)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    one, other = (torch.cat([g.flatten() for g in tiny.gradients().values()]) for tiny in (whole, in_parts))
    assert torch.cosine_similarity(one, other, dim=0) > 0.999
    assert other.norm().item() == pytest.approx(one.norm().item(), rel=2e-2)


def test_the_gradients_of_the_whole_are_those_of_its_loss() -> None:
    """AdamW sees what autograd gives for the network's own loss of the same views."""
    tiny = make("stablerep")
    views = tiny.step._augment(random_batch(tiny.config, 0))
    twin = copy.deepcopy(tiny.network)
    batch = random_batch(tiny.config, 0)
    rows = twin.encoder(pixel_values=views).last_hidden_state[:, 0].reshape(6, 3, -1)
    normed = nn.functional.normalize(twin.objective.terms["image"].head(rows.flatten(0, 1), 3), dim=1)
    logits = (normed @ normed.T / 0.1).masked_fill(torch.eye(18, dtype=torch.bool), -torch.inf)
    labels = batch.prompt_ids.repeat_interleave(3)
    matches = (labels[:, None] == labels).float().fill_diagonal_(0)
    shares = logits.log_softmax(dim=1).masked_fill(torch.eye(18, dtype=torch.bool), 0)
    loss = -(matches * shares / matches.sum(dim=1, keepdim=True)).sum(dim=1).mean()
    loss.backward()
    assert tiny.train(0).losses["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    expected = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    close(tiny.gradients(), expected, 1e-4)


class _Noise:
    """Multiplies the encoder's tokens by numbers that it draws, as dropout does, or by those that it is given."""

    def __init__(self, tiny: Tiny, given: list[Tensor] | None = None) -> None:
        self.drawn: list[tuple[bool, Tensor]] = []
        self._given = given
        tiny.network.encoder.register_forward_hook(self)

    def __call__(self, encoder: nn.Module, inputs: object, output: Any) -> Any:
        tokens = output.last_hidden_state
        factors = self._given.pop(0) if self._given else torch.rand(len(tokens), 1, tokens.shape[2])
        self.drawn.append((torch.is_grad_enabled(), factors))
        output.last_hidden_state = tokens * factors
        return output


def test_the_second_pass_draws_what_the_first_drew() -> None:
    in_parts = make("stablerep", groups=5, grad_accum_steps=4)
    noise = _Noise(in_parts)
    torch.manual_seed(3)
    found = in_parts.train(0)
    after = torch.rand(3)
    first = [factors for has_graph, factors in noise.drawn if not has_graph]
    second = [factors for has_graph, factors in noise.drawn if has_graph]
    assert [len(factors) for factors in first] == [4, 4, 4, 3]
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    assert len({float(factors[0, 0, 0]) for factors in first}) == 4, "every part draws numbers of its own"
    torch.manual_seed(3)
    for factors in first:
        torch.testing.assert_close(torch.rand(factors.shape), factors, rtol=0, atol=0)
    assert torch.equal(torch.rand(3), after), "the second pass leaves no trace"

    whole = make("stablerep", groups=5)
    _Noise(whole, given=[torch.cat(first)])
    assert found.losses["loss"].item() == pytest.approx(whole.train(0).losses["loss"].item(), rel=1e-5)
    close(in_parts.gradients(), whole.gradients(), 1e-5)


# --- steps that are skipped ----------------------------------------------------------------------------------------


def spoil_gradient(tiny: Tiny, value: float) -> Callable[[], None]:
    """Let one element of one gradient be `value` from now on; the result ends it."""
    weight = next(parameter for parameter in tiny.network.encoder.parameters() if parameter.ndim == 2)

    def spoil(gradient: Tensor) -> Tensor:
        spoilt = gradient.clone()
        spoilt.view(-1)[3] = value
        return spoilt

    return weight.register_hook(spoil).remove


def spoil_features(tiny: Tiny, value: float) -> Callable[[], None]:
    """Let the encoder say `value` of one row from now on; the result ends it."""

    def spoil(encoder: nn.Module, inputs: object, output: Any) -> Any:
        tokens = output.last_hidden_state.clone()
        tokens[1, 0, 0] = value
        output.last_hidden_state = tokens
        return output

    return tiny.network.encoder.register_forward_hook(spoil).remove


def adam_state(tiny: Tiny) -> dict[str, Tensor]:
    return {
        f"{name}: {key}": value.clone()
        for name, parameter in tiny.network.named_parameters()
        for key, value in tiny.optimizer.state.get(parameter, {}).items()
    }


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("spoil", [spoil_gradient, spoil_features])
def test_a_step_without_finite_gradients_changes_nothing_and_the_next_one_trains(
    spoil: Callable[[Tiny, float], Callable[[], None]], value: float, parts: int, max_grad_norm: float
) -> None:
    tiny = make("stablerep", grad_accum_steps=parts, max_grad_norm=max_grad_norm)
    twin = make("stablerep", grad_accum_steps=parts, max_grad_norm=max_grad_norm)
    for of_both in (tiny, twin):
        of_both.train(0)
    weights, state = tiny.weights(), adam_state(tiny)
    mend = spoil(tiny, value)
    for step in (1, 2):
        log = tiny.train(step)
        assert not log.grad_norm.isfinite()
        equal(tiny.weights(), weights)
        equal(adam_state(tiny), state)
        assert (tiny.step.num_skipped.item(), tiny.step.num_skipped_last.item()) == (step, step)
        assert all(buffer.isfinite().all() for buffer in tiny.network.buffers() if buffer.is_floating_point())
        assert all(parameter.grad is None for parameter in tiny.network.parameters()), "nothing of it stays"
    mend()
    assert tiny.train(3).grad_norm.isfinite()
    assert (tiny.step.num_skipped.item(), tiny.step.num_skipped_last.item()) == (2, 0)
    twin.train(3)
    equal(tiny.weights(), twin.weights())
    equal(adam_state(tiny), adam_state(twin))
    assert not torch.equal(tiny.weights()["encoder.embeddings.cls_token"], weights["encoder.embeddings.cls_token"])


def test_the_first_step_of_all_may_be_skipped() -> None:
    tiny = make("stablerep")
    weights = tiny.weights()
    spoil_gradient(tiny, math.nan)
    tiny.train(0)
    equal(tiny.weights(), weights)
    for name, value in adam_state(tiny).items():
        assert not value.any(), name


# --- clipping, rate, averages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 3])
def test_gradients_are_clipped_to_the_norm_of_all_and_the_norm_before_is_told(parts: int) -> None:
    free, held = make("stablerep"), make("stablerep", max_grad_norm=0.01, grad_accum_steps=parts)
    loose = make("stablerep", max_grad_norm=1e6, grad_accum_steps=parts)
    logs = [tiny.train(0) for tiny in (free, held, loose)]
    norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in free.gradients().values()))
    assert norm > 0.02
    assert [log.grad_norm.item() for log in logs] == [pytest.approx(norm, rel=1e-4)] * 3
    close(held.gradients(), {name: g * (0.01 / norm) for name, g in free.gradients().items()}, 1e-4)
    close(loose.gradients(), free.gradients(), 1e-5)


def test_the_rate_follows_the_schedule_of_the_views() -> None:
    # 6 groups of 3 images in 2 views: 36 rows, so the peak is 0.02 * 36 / 512; of 10 steps 2 warm up.
    tiny = make("simclr", warmup_steps=100)
    peak = 0.02 * 36 / 512
    expected = [0.0, peak / 2, peak, peak * (1 + math.cos(math.pi / 8)) / 2]
    for step, lr in enumerate(expected):
        assert tiny.train(step).lr == pytest.approx(lr)
        assert [group["lr"] for group in tiny.optimizer.param_groups] == [pytest.approx(lr)] * 2


@pytest.mark.parametrize("parts", [1, 3])
def test_the_average_of_the_encoder_follows_and_is_what_is_kept(parts: int) -> None:
    tiny = make("stablerep", ema_decay=0.75, grad_accum_steps=parts)
    encoder = tiny.network.encoder
    expected = [p.detach().clone() for p in encoder.parameters()]
    for step in range(4):
        tiny.train(step)
        expected = [0.75 * mean + 0.25 * p.detach() for mean, p in zip(expected, encoder.parameters(), strict=True)]
    kept = tiny.network.exported
    assert kept is not encoder
    torch.testing.assert_close([p.detach() for p in kept.parameters()], expected, rtol=1e-5, atol=1e-7)
    assert all(not p.requires_grad and p.grad is None for p in kept.parameters())
    assert not kept.training
    names = {id(p): n for n, p in tiny.network.named_parameters()}
    trained = {names[id(p)] for group in tiny.optimizer.param_groups for p in group["params"]}
    assert not any(name.startswith(("average", "teacher")) for name in trained)


def test_without_an_average_the_encoder_itself_is_kept() -> None:
    tiny = make("stablerep")
    assert tiny.network.exported is tiny.network.encoder


@pytest.mark.parametrize("parts", [1, 3])
def test_synclrs_teacher_follows_by_half_a_cosine(parts: int) -> None:
    # arXiv 2104.02057's schedule, from 0.6 to 1 over 10 steps.
    tiny = make("synclr", teacher_decay=0.6, teacher_decay_end=1.0, grad_accum_steps=parts)
    teacher, term = tiny.network.teacher, tiny.network.objective.terms["teacher"]
    assert teacher is not None
    pairs = [(teacher.module, tiny.network.encoder), (term.teacher_projector.module, term.projector)]
    expected = [[p.detach().clone() for p in student.parameters()] for _, student in pairs]
    for step in range(3):
        tiny.train(step)
        decay = 1 - (1 - 0.6) * (1 + math.cos(math.pi * step / 10)) / 2
        for means, (_, student) in zip(expected, pairs, strict=True):
            for mean, p in zip(means, student.parameters(), strict=True):
                mean.mul_(decay).add_(p.detach(), alpha=1 - decay)
    for means, (follower, student) in zip(expected, pairs, strict=True):
        torch.testing.assert_close([p.detach() for p in follower.parameters()], means, rtol=1e-5, atol=1e-7)
        assert all(torch.equal(*both) for both in zip(follower.buffers(), student.buffers(), strict=True))
        assert all(not p.requires_grad and p.grad is None for p in follower.parameters())


# --- ranks ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two ranks found; one pair of processes serves all cases."""
    folder, port = tmp_path_factory.mktemp("ranks"), str(free_port())
    processes = []
    for rank in range(WORLD_SIZE):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(WORLD_SIZE)}
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-m", "tests.consumer.step_rank_program", str(folder)]
        processes.append(subprocess.Popen(command, env=environment, cwd=ROOT))
    try:
        assert [process.wait(timeout=240) for process in processes] == [0] * WORLD_SIZE
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(WORLD_SIZE)]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_ranks_train_as_one_process(name: str, parts: int, ranks: list[dict[str, Any]]) -> None:
    expected = run(name, 1, Accelerator(cpu=True))
    found = [of_rank[f"{name} {parts}"] for of_rank in ranks]
    for step in range(NUM_STEPS):
        for part, loss in expected["losses"][step].items():
            mean = sum(of_rank["losses"][step][part].item() for of_rank in found) / WORLD_SIZE
            assert mean == pytest.approx(loss.item(), rel=1e-5 if step == 0 else 1e-3), part
    for of_rank in found:
        close(of_rank["gradients"], expected["gradients"], 2e-5)
        close(of_rank["state"], expected["state"], 2e-3)
    equal(found[0]["state"], found[1]["state"])
