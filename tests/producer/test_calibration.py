"""What eight-bit arithmetic is calibrated by is what generation really gives the networks."""

from pathlib import Path

import torch

from penstock.producer.backends.part import Part
from penstock.producer.calibration import PROMPTS
from penstock.producer.stable_diffusion import StableDiffusionEngine
from tests.producer import folders
from tests.producer.engine_bench import BATCH, config

torch.set_num_threads(1)


def test_a_denoiser_sees_every_step_of_every_prompt(tmp_path: Path) -> None:
    engine = StableDiffusionEngine(config(folders.make_xl(tmp_path)))
    engine.load()
    assert engine._assembly._building is not None
    part, _ = engine._assembly._building
    seen = list(engine._assembly._calibrate(part))
    # Eight guided images have 16 rows a step.
    assert len(seen) == 20 * 2 * len(PROMPTS) // BATCH
    for inputs in seen:
        assert [tensor.shape for tensor in inputs] == [tensor.shape for tensor in part.inputs]
        assert [tensor.dtype for tensor in inputs] == [tensor.dtype for tensor in part.inputs]
    timesteps = torch.cat([inputs[1] for inputs in seen])
    assert len(timesteps.unique()) == 20
    samples = torch.cat([inputs[0].flatten(1) for inputs in seen])
    assert len(samples.unique(dim=0)) == 20 * len(PROMPTS), "with and without its prompt a row sees the same sample"


def test_a_decoder_sees_finished_latents(pipeline_folder: Path) -> None:
    engine = StableDiffusionEngine(config(pipeline_folder))
    engine.load()
    latents = torch.zeros((3, 4, 8, 8))
    seen = list(engine._assembly._calibrate(Part("decoder", torch.nn.Identity(), (latents,))))
    assert len(seen) == len(PROMPTS)
    assert all(block.shape == latents.shape for (block,) in seen)
    assert len(torch.cat([block.flatten(1) for (block,) in seen]).unique(dim=0)) == len(PROMPTS)
