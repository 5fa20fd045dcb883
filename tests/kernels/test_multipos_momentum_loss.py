"""SynCLR's loss against its definition, in one process. Several ranks: test_ranks.py."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.kernels.multipos_momentum_loss import multipos_momentum_loss

torch.set_num_threads(1)

LABELS = {
    "pairs": [3, 3, 8, 8, 1, 1],
    "ragged": [5, 5, 5, 5, 2, 2, 9],
    "singletons and one pair": [1, 2, 3, 4, 4],
    "all singletons": [1, 2, 3],
    "one label": [7, 7, 7, 7],
    "interleaved, negative and huge": [-(2**63), 2**63 - 1, 0, -(2**63), 2**63 - 1, 0, 0],
    "two rows": [4, 4],
}


def defined_loss(student: Tensor, teacher: Tensor, labels: list[int], temperature: float) -> Tensor:
    """Row by row: H(p, q) with q the softmax over all other images' teacher rows, p uniform over the label's others."""
    q, k = student / student.norm(dim=1, keepdim=True), teacher / teacher.norm(dim=1, keepdim=True)
    losses = []
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        positives = [place for place, j in enumerate(others) if labels[j] == label]
        if positives:
            s = k[others] @ q[i] / temperature
            losses.append(torch.logsumexp(s, dim=0) - s[positives].mean())
        else:
            losses.append(0 * q[i].sum())
    return torch.stack(losses).sum() / len(labels)


def draw(num_rows: int, seed: int, dim: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_equals_its_definition(labels: list[int], chunk_size: int) -> None:
    ours, dense = (draw(len(labels), 1).requires_grad_() for _ in range(2))
    teacher = draw(len(labels), 2)
    how = {"temperature": 0.1, "chunk_size": chunk_size}
    loss = multipos_momentum_loss(ours, teacher, torch.tensor(labels), **how)  # type: ignore[arg-type]
    expected = defined_loss(dense, teacher, labels, 0.1)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        *torch.autograd.grad(loss, ours), *torch.autograd.grad(expected, dense), rtol=0, atol=1e-12
    )


def test_gradcheck_in_the_student() -> None:
    student, teacher, labels = draw(7, 1).requires_grad_(), draw(7, 2), torch.tensor(LABELS["ragged"])
    assert torch.autograd.gradcheck(
        lambda rows: multipos_momentum_loss(rows, teacher, labels, temperature=0.3, chunk_size=2), student
    )


def test_two_orthogonal_pairs_by_hand() -> None:
    # Student rows see one positive at cosine 1 and two negatives at 0, their own teacher row nowhere: of the three
    # others log(e^2 + 2) - 2. With the own row it would be log(2 e^2 + 2) - 2.
    rows = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 5.0]], dtype=torch.float64)
    loss = multipos_momentum_loss(rows, rows / 7, torch.tensor([6, 6, 4, 4]), temperature=0.5)
    assert loss.item() == pytest.approx(math.log(math.exp(2) + 2) - 2, abs=1e-14)


def test_it_is_not_symmetric_student_and_teacher_have_their_parts() -> None:
    student, teacher, labels = draw(6, 1), draw(6, 2), torch.tensor(LABELS["pairs"])
    swapped = multipos_momentum_loss(teacher, student, labels, temperature=0.2)
    assert abs(swapped - multipos_momentum_loss(student, teacher, labels, temperature=0.2)) > 1e-3


def test_the_teacher_gets_no_gradient_though_it_asks_for_one() -> None:
    student, teacher = draw(6, 1).requires_grad_(), draw(6, 2).requires_grad_()
    multipos_momentum_loss(student, teacher, torch.tensor(LABELS["pairs"]), temperature=0.1).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
def test_the_teachers_row_of_the_same_image_takes_no_part(chunk_size: int) -> None:
    """A student row's loss and gradient do not move with the teacher's own row, but do with any other's."""
    student, teacher, labels = draw(7, 1).requires_grad_(), draw(7, 2), torch.tensor(LABELS["ragged"])

    def gradients(teacher: Tensor) -> Tensor:
        loss = multipos_momentum_loss(student, teacher, labels, temperature=0.2, chunk_size=chunk_size)
        return torch.autograd.grad(loss, student)[0]

    for row in range(7):
        moved = teacher.clone()
        moved[row] = -100 * teacher[row]
        change = (gradients(moved) - gradients(teacher)).abs().amax(dim=1)
        assert change[row] == 0
        others = [other for other in range(6) if other != row]  # the seventh has no positive, and no gradient at all
        assert (change[others] > 1e-9).all()


def test_a_row_without_positives_loses_nothing_but_repels_and_counts_in_the_mean() -> None:
    student, teacher = draw(3, 1).requires_grad_(), draw(3, 2)
    loss = multipos_momentum_loss(student, teacher, torch.tensor([1, 1, 9]), temperature=0.1)
    q, k = F.normalize(student.detach(), dim=1), F.normalize(teacher, dim=1)
    s = (q @ k.T / 0.1).tolist()
    by_hand = [math.log(math.exp(s[0][1]) + math.exp(s[0][2])) - s[0][1]]
    by_hand += [math.log(math.exp(s[1][0]) + math.exp(s[1][2])) - s[1][0]]
    assert loss.item() == pytest.approx(sum(by_hand) / 3, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, student)
    assert not gradient[2].any()
    assert gradient[:2].abs().amax(dim=1).min() > 0


def test_one_row_alone_loses_nothing_and_has_a_gradient_of_zero() -> None:
    student = draw(1, 1).requires_grad_()
    loss = multipos_momentum_loss(student, draw(1, 2), torch.tensor([4]), temperature=0.1)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, student)[0].tolist() == [[0.0] * 5]


@pytest.mark.parametrize("bit", [0, 24, 31, 32, 53, 62])
def test_labels_that_differ_in_one_bit_are_negatives(bit: int) -> None:
    base = 0x0123456789ABCDEF
    labels = torch.tensor([base, base, base ^ (1 << bit), base ^ (1 << bit)])
    loss = multipos_momentum_loss(draw(4, 1), draw(4, 2), labels, temperature=0.1)
    torch.testing.assert_close(loss, defined_loss(draw(4, 1), draw(4, 2), [0, 0, 1, 1], 0.1), rtol=0, atol=1e-12)


def test_order_of_rows_changes_nothing() -> None:
    student, teacher, labels = draw(37, 3), draw(37, 4), torch.arange(37) // 3 % 7
    order = torch.randperm(37, generator=torch.Generator().manual_seed(1))
    plain = multipos_momentum_loss(student, teacher, labels, temperature=0.1)
    shuffled = multipos_momentum_loss(student[order], teacher[order], labels[order], temperature=0.1, chunk_size=5)
    torch.testing.assert_close(shuffled, plain, rtol=0, atol=1e-12)


def test_rows_of_any_length_count_by_their_direction() -> None:
    student, teacher, labels = draw(6, 1), draw(6, 2), torch.tensor(LABELS["pairs"])
    lengths = torch.tensor([1e-3, 1.0, 1e20, 7.0, 1e-8, 3.0], dtype=torch.float64)[:, None]
    plain = multipos_momentum_loss(student, teacher, labels, temperature=0.1)
    scaled = multipos_momentum_loss(lengths * student, lengths.flip(0) * teacher, labels, temperature=0.1)
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [1e-6, 0.01, 1e6])
def test_extreme_temperatures(temperature: float) -> None:
    """Against float64; at 1e-6 the similarities reach a million, and e^s overflows any float."""
    labels = LABELS["ragged"]
    exact, rounded = draw(7, 1).requires_grad_(), draw(7, 1, dtype=torch.float32).requires_grad_()
    expected = defined_loss(exact, draw(7, 2), labels, temperature)
    loss = multipos_momentum_loss(
        rounded, draw(7, 2, dtype=torch.float32), torch.tensor(labels), temperature=temperature, chunk_size=3
    )
    # A float32 cosine is rounded to some 1e-7, which the temperature divides.
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)
    (found,), (right,) = torch.autograd.grad(loss, rounded), torch.autograd.grad(expected, exact)
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), right, rtol=0, atol=2e-5 * right.abs().max().item())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
def test_low_precision_features_are_summed_in_float32_whatever_autocast_says(
    dtype: torch.dtype, tolerance: float
) -> None:
    student, teacher = draw(60, 1, dim=64, dtype=dtype).requires_grad_(), draw(60, 2, dim=64, dtype=dtype)
    labels = torch.arange(60) % 17
    exact = student.detach().double().requires_grad_()
    expected = defined_loss(exact, teacher.double(), labels.tolist(), 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = multipos_momentum_loss(student, teacher, labels, temperature=0.1, chunk_size=13)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=2e-6)
    assert gradient.dtype == dtype
    (right,) = torch.autograd.grad(expected, exact)
    torch.testing.assert_close(gradient.double(), right, rtol=0, atol=tolerance * right.abs().max().item())


STUDENT, TEACHER, ROW_LABELS = draw(4, 1), draw(4, 2), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("student", "teacher", "labels", "message"),
    [
        (STUDENT, TEACHER, ROW_LABELS.float(), r"labels must be int64 \(they are hashes, never rounded\), got .*"),
        (STUDENT, TEACHER, ROW_LABELS[:3], r"labels must be \[4\], one for each row, got \[3\]"),
        (STUDENT, TEACHER[:3], ROW_LABELS, r"labels must be \[3\], one for each row, got \[4\]"),
        (STUDENT, TEACHER[:, :4], ROW_LABELS, "student and teacher must be equally wide, got 5 and 4"),
        (STUDENT, TEACHER, ROW_LABELS.to("meta"), "labels must be on the device of student, cpu, got meta"),
        (STUDENT[0], TEACHER, ROW_LABELS, r"student must be floating point \[n, D\], D >= 1, got .* \[5\]"),
        (STUDENT, TEACHER.long(), ROW_LABELS, r"teacher must be floating point \[n, D\], D >= 1, got torch\.int64 .*"),
        (STUDENT[:0], TEACHER[:0], ROW_LABELS[:0], "student must have at least one row on some rank, got none"),
    ],
)
def test_rows_that_do_not_fit_are_refused(student: Tensor, teacher: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        multipos_momentum_loss(student, teacher, labels, temperature=0.1)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, 9e-7])
def test_a_temperature_out_of_bounds_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"^temperature must be finite and >= 1e-06, got [-\w.]+$"):
        multipos_momentum_loss(STUDENT, TEACHER, ROW_LABELS, temperature=temperature)


def test_a_chunk_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^chunk_size must be >= 1, got 0$"):
        multipos_momentum_loss(STUDENT, TEACHER, ROW_LABELS, temperature=0.1, chunk_size=0)
