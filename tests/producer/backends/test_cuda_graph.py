"""A recorded call gives what the call gives; only a GPU can say."""

import pytest
import torch

from penstock.producer.backends.cuda_graph import GraphedCall
from penstock.producer.backends.part import Part
from penstock.producer.backends.verify import draws
from penstock.protocol.errors import ModelError
from tests.producer.backends.stand_in import decoder_part, denoiser_part

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_gpu(part: Part) -> Part:
    return Part(part.name, part.module.cuda(), tuple(tensor.cuda() for tensor in part.inputs))


@pytest.mark.parametrize("part", [decoder_part(), denoiser_part()])
def test_a_replay_gives_the_bits_of_the_call(part: Part) -> None:
    part = on_gpu(part)
    graphed = GraphedCall(part.name, part.module, part.inputs)
    with torch.no_grad():
        results = [(graphed(*inputs), part.module(*inputs)) for inputs in draws(part)]
    assert all(torch.equal(replayed, called) for replayed, called in results)  # earlier results were not overwritten


def test_a_replay_is_ordered_with_the_callers_stream() -> None:
    part = on_gpu(decoder_part())
    graphed = GraphedCall(part.name, part.module, part.inputs)
    with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
        latents = torch.randn_like(part.inputs[0])
        for _ in range(50):
            latents = latents + 0.01
            result = graphed(latents)
            assert torch.equal(result, part.module(latents))


def test_other_shapes_than_recorded_are_refused() -> None:
    part = on_gpu(decoder_part())
    graphed = GraphedCall(part.name, part.module, part.inputs)
    with pytest.raises(ModelError, match=r"built for float32\[2, 4, 8, 8\] cuda:0, got float32\[1, 4, 8, 8\] cuda:0"):
        graphed(part.inputs[0][:1])


def test_a_call_that_looks_at_values_cannot_be_recorded() -> None:
    part = on_gpu(decoder_part())
    with pytest.raises(ModelError, match=r"cannot be recorded as a CUDA graph: .*; turn cuda_graphs off"):
        GraphedCall("decoder", lambda latents: part.module(latents) * latents.sum().item(), part.inputs)
