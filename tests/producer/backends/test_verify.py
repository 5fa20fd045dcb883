"""Verification lets rounding pass and nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from penstock.producer.backends.part import Part
from penstock.producer.backends.verify import TIMESTEPS, TOLERANCES, draws, verify
from penstock.protocol.errors import ModelError
from tests.producer.backends.stand_in import Decoder, decoder_part, denoiser_part


def test_a_module_agrees_with_itself_to_the_bit() -> None:
    found = verify(decoder_part(), decoder_part().module)
    assert (found.rms, found.largest) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_another_rounding_passes(dtype: torch.dtype) -> None:
    part = Part("decoder", Decoder().to(dtype), (torch.zeros(2, 4, 8, 8, dtype=dtype),))
    exact = Decoder().to(dtype).float()
    found = verify(part, lambda latents: exact(latents.float()).to(dtype))
    assert 0 < found.rms <= TOLERANCES[dtype]


@pytest.mark.parametrize(
    "built",
    [
        Decoder(slope=0.2),
        Decoder(seed=1),
        lambda latents: decoder_part().module(latents) * 1.001,
        lambda latents: decoder_part().module(latents) + 1e-3,
        lambda latents: decoder_part().module(latents).flip(0),
        lambda latents: decoder_part().module(latents).transpose(2, 3),
    ],
    ids=["constant", "weights", "scale", "offset", "rows", "axes"],
)
def test_a_wrong_result_is_refused(built: Callable[..., Tensor]) -> None:
    with pytest.raises(ModelError, match=r"relative RMS .* \(tolerance 0.0001\), largest .*use backend eager"):
        verify(decoder_part(), built)


def test_one_wrong_pixel_is_refused_where_the_rms_would_let_it_pass() -> None:
    part = Part("decoder", Decoder(), (torch.zeros(2, 4, 256, 256),))

    def built(latents: Tensor) -> Tensor:
        image: Tensor = Decoder()(latents).clone()
        image[1, 0, 3, 3] += 0.01
        return image

    with pytest.raises(ModelError) as caught:
        verify(part, built)
    assert float(str(caught.value).partition("relative RMS ")[2].split()[0]) < 1e-4


def test_a_wrong_stride_is_refused_by_its_shape() -> None:
    with pytest.raises(
        ModelError, match=r"gives torch.float32 \[2, 3, 4, 4\], its module torch.float32 \[2, 3, 8, 8\]"
    ):
        verify(decoder_part(), Decoder(stride=2))


def test_another_dtype_is_refused() -> None:
    with pytest.raises(ModelError, match=r"gives torch.float16"):
        verify(decoder_part(), lambda latents: decoder_part().module(latents).half())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    def built(latents: Tensor) -> Tensor:
        image: Tensor = decoder_part().module(latents).clone()
        image[0, 0, 0, 0] = value
        return image

    with pytest.raises(ModelError, match=r"as built gives values that are not finite, its module does not"):
        verify(decoder_part(), built)
    with pytest.raises(ModelError, match=r"itself gives values that are not finite"):
        verify(Part("decoder", Wrapped(built), decoder_part().inputs), built)


class Wrapped(nn.Module):
    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(*inputs)


def test_a_fault_at_one_timestep_alone_is_found() -> None:
    part = denoiser_part()

    def built(sample: Tensor, timestep: Tensor, *rest: Tensor) -> Tensor:
        wrong = (timestep == TIMESTEPS[-1])[:, None, None, None]
        return torch.where(wrong, 0.0, part.module(sample, timestep, *rest))

    with pytest.raises(ModelError, match=r"part 'denoiser' as built differs"):
        verify(part, built)


def test_a_stated_tolerance_is_used() -> None:
    def built(latents: Tensor) -> Tensor:
        return decoder_part().module(latents) * 1.01

    assert verify(decoder_part(), built, tolerance=0.02).rms == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(ModelError, match=r"tolerance 0.005"):
        verify(decoder_part(), built, tolerance=0.005)


def test_a_dtype_without_tolerance_is_refused() -> None:
    part = Part("decoder", Decoder().double(), (torch.zeros(2, 4, 8, 8, dtype=torch.float64),))
    with pytest.raises(ModelError, match=r"no tolerance for torch.float64"):
        verify(part, part.module)


def test_the_noise_is_the_same_every_time_and_every_row_meets_several_timesteps() -> None:
    first, second = (list(draws(denoiser_part())) for _ in range(2))
    for ours, theirs in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    timesteps = torch.stack([inputs[1] for inputs in first])
    assert all(set(row.tolist()) == set(TIMESTEPS) for row in timesteps.T)
    assert all(len(set(row.tolist())) == 3 for row in timesteps)
    sizes = first[0][4]
    assert torch.equal(sizes, sizes.round())
    assert sizes.max() > 100


def test_verification_leaves_the_switches_of_cudnn_as_they_were() -> None:
    before = torch.backends.cudnn.allow_tf32
    verify(decoder_part(), decoder_part().module)
    assert torch.backends.cudnn.allow_tf32 is before
