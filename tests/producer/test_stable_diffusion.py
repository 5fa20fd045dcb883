"""The denoising loop, against diffusers' own pipelines and against itself in other company."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from penstock.producer.assembly import Networks
from penstock.producer.engine import make
from penstock.producer.schedules import Schedules
from penstock.producer.stable_diffusion import StableDiffusionEngine
from penstock.protocol.errors import ModelError
from penstock.protocol.tickets import Ticket
from penstock.telemetry.recorder import Recorder
from tests.producer import folders
from tests.producer.engine_bench import BATCH, config, equal, ticket

torch.set_num_threads(1)

MAX_SHADES = 1
"""The pipeline rounds after sums in another order."""


def _engine(folder: Path, **changes: Any) -> StableDiffusionEngine:
    engine = StableDiffusionEngine(config(folder, **changes))
    engine.load()
    return engine


@pytest.fixture(scope="module")
def engine(pipeline_folder: Path) -> StableDiffusionEngine:
    return _engine(pipeline_folder)


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionEngine:
    return _engine(folders.make_xl(tmp_path_factory.mktemp("xl")))


@pytest.fixture(scope="module")
def lcm(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionEngine:
    return _engine(folders.make_lcm(tmp_path_factory.mktemp("lcm")))


def test_a_batch_tells_how_long_its_stages_took_one_after_the_other(pipeline_folder: Path) -> None:
    recorder = Recorder(ring=16)
    engine = StableDiffusionEngine(config(pipeline_folder), recorder)
    engine.load()
    with recorder.span("generate"):
        make(engine, [ticket(engine, 0)])
    *stages, whole = recorder.drain()
    assert [event.stage for event in stages] == ["text", "denoise", "decode"]
    borders = [whole.begin_ns, *(at for event in stages for at in (event.begin_ns, event.end_ns)), whole.end_ns]
    assert borders == sorted(borders)
    assert stages[0].end_ns == stages[1].begin_ns
    assert stages[1].end_ns == stages[2].begin_ns


def _stock(engine: StableDiffusionEngine, asked: Ticket, **options: Any) -> np.ndarray:
    """What diffusers' own call makes of a ticket: uint8 [m, 16, 16, 3]."""
    recipe = asked.recipe
    pipeline = engine._pipeline
    own = pipeline.scheduler
    if recipe.scheduler != "default":
        pipeline.scheduler = getattr(diffusers, recipe.scheduler).from_config(own.config)
    try:
        images = pipeline(
            prompt=[recipe.prompt] * recipe.num_images,
            generator=[torch.Generator().manual_seed(seed) for seed in recipe.image_seeds],
            guidance_scale=recipe.guidance_scales[0],
            num_inference_steps=recipe.num_inference_steps,
            output_type="np",
            **options,
        ).images
    finally:
        pipeline.scheduler = own
    return np.round(images * 255).astype(np.uint8)


def _differ(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max())


# --- against diffusers' own call --------------------------------------------------------------------------------------

SCHEDULERS = [
    "default",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DDPMScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "LCMScheduler",
    "TCDScheduler",
]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_loop_makes_what_diffusers_call_makes(engine: StableDiffusionEngine, scheduler: str) -> None:
    asked = ticket(engine, 0, prompt="a red fox", scheduler=scheduler, num_inference_steps=5, guidance_scales=(3.0,))
    (group,) = make(engine, [asked])
    assert group.std() > 1
    assert _differ(group, _stock(engine, asked)) <= MAX_SHADES


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.5, 7.5])
def test_guidance_of_one_or_less_is_none_as_in_diffusers(engine: StableDiffusionEngine, scale: float) -> None:
    asked = ticket(engine, 0, prompt="a red fox", guidance_scales=(scale,), num_inference_steps=3)
    calls = engine._assembly.networks(0, 0).denoiser.num_calls
    (group,) = make(engine, [asked])
    assert engine._assembly.networks(0, 0).denoiser.num_calls - calls == 3, "2 images, guided or not, fit the 4 slots"
    assert _differ(group, _stock(engine, asked)) <= MAX_SHADES


def test_guidance_is_rescaled_as_in_diffusers(engine: StableDiffusionEngine) -> None:
    plain = ticket(engine, 0, prompt="a red fox", guidance_scales=(7.5,), num_inference_steps=3)
    asked = ticket(engine, 0, prompt="a red fox", guidance_scales=(7.5,), num_inference_steps=3, guidance_rescale=0.7)
    (group,) = make(engine, [asked])
    assert _differ(group, _stock(engine, asked, guidance_rescale=0.7)) <= MAX_SHADES
    assert _differ(group, make(engine, [plain])[0]) > MAX_SHADES


def test_guidance_acts_in_its_interval_only(engine: StableDiffusionEngine) -> None:
    """By the way that diffusers documents: a callback that changes the pipeline's weight between steps."""
    settings = {"prompt": "a red fox", "num_inference_steps": 8}
    asked = ticket(engine, 0, guidance_scales=(7.5,), guidance_start=0.25, guidance_stop=0.75, **settings)
    weights = [1.0, 1.0, 7.5, 7.5, 7.5, 7.5, 1.0, 1.0]

    def steer(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        # A weight just above 1 keeps both halves of the pipeline's batch, and is no guidance.
        pipe._guidance_scale = max(weights[step + 1], 1 + 1e-7) if step + 1 < len(weights) else 1 + 1e-7
        return {}

    # The first step has what the recipe says.
    asked_without = ticket(engine, 0, guidance_scales=(1.001,), **settings)
    expected = _stock(engine, asked_without, callback_on_step_end=steer)
    (group,) = make(engine, [asked])
    assert _differ(group, expected) <= MAX_SHADES
    assert _differ(group, _stock(engine, asked)) > MAX_SHADES


@pytest.mark.parametrize(
    ("scheduler", "num_calls", "steps"),
    [
        ("DDIMScheduler", 4, [0, 1, 2, 3]),
        # A predictor and a corrector a step, but for the last.
        ("HeunDiscreteScheduler", 7, [0, 0, 1, 1, 2, 2, 3]),
        ("KDPM2DiscreteScheduler", 7, [0, 0, 1, 1, 2, 2, 3]),
        # Linear multistep alone (PLMS): its first step is done twice.
        ("PNDMScheduler", 5, [0, 0, 1, 2, 3]),
    ],
)
def test_an_interval_is_of_steps_however_many_calls_they_take(
    engine: StableDiffusionEngine, scheduler: str, num_calls: int, steps: list[int]
) -> None:
    default = {"skip_prk_steps": True} if scheduler == "PNDMScheduler" else {}
    own = getattr(diffusers, scheduler).from_config(engine._pipeline.scheduler.config, **default)
    schedule = Schedules(own, 4).open("default", 4)
    assert schedule.num_calls == num_calls
    assert schedule.steps == steps


def test_runge_kutta_takes_four_calls_a_step(engine: StableDiffusionEngine) -> None:
    own = diffusers.PNDMScheduler.from_config(engine._pipeline.scheduler.config, skip_prk_steps=False)
    schedule = Schedules(own, 4).open("default", 6)
    assert schedule.steps == [0] * 4 + [1] * 4 + [2] * 4 + [3, 4, 5]


def test_a_default_scheduler_whose_noise_has_no_seed_is_refused_too(engine: StableDiffusionEngine) -> None:
    class DPMSolverSDEScheduler(diffusers.DDIMScheduler):  # type: ignore[misc]
        """Of that name."""

    own = DPMSolverSDEScheduler.from_config(engine._pipeline.scheduler.config)
    with pytest.raises(ModelError, match="no seed fixes"):
        Schedules(own, 4).open("default", 4)


def test_the_models_own_size_is_built_once_by_whatever_name(engine: StableDiffusionEngine) -> None:
    networks = engine._assembly.networks(0, 0)
    assert engine._assembly.networks(16, 16) is networks
    for side in (20, 24, 28, 32):
        engine._assembly.networks(side, side)
    assert len(engine._assembly._built) == 4
    assert engine._assembly.networks(0, 0) is not networks, "the one used least recently made room"


def test_on_a_cpu_the_threads_are_part_of_the_promise(pipeline_folder: Path) -> None:
    one = _engine(pipeline_folder).manifest
    torch.set_num_threads(2)
    try:
        two = _engine(pipeline_folder).manifest
    finally:
        torch.set_num_threads(1)
    assert (one.settings["threads"], two.settings["threads"]) == ("1", "2")
    assert one.digest != two.digest


def test_steps_without_guidance_cost_one_row_an_image(engine: StableDiffusionEngine) -> None:
    denoiser = engine._assembly.networks(0, 0).denoiser
    before = denoiser.num_calls
    make(
        engine,
        [ticket(engine, 0, num_images=4, num_inference_steps=8, guidance_start=0.25, guidance_stop=0.75)],
    )
    assert denoiser.num_calls - before == 8 + 4, "4 images have 4 slots a call; 4 of the 8 steps are guided"


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_xl_is_told_pooled_text_and_sizes_as_diffusers_tells_it(xl: StableDiffusionEngine, scale: float) -> None:
    asked = ticket(xl, 0, prompt="a red fox", guidance_scales=(scale,), num_inference_steps=3)
    (group,) = make(xl, [asked])
    assert group.std() > 1
    assert _differ(group, _stock(xl, asked)) <= MAX_SHADES


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_latents_that_were_whitened_are_coloured_again(dtype: str, tmp_path: Path) -> None:
    whitened = {"latents_mean": [0.1, -0.2, 0.3, 0.4], "latents_std": [1.5, 0.5, 2.0, 1.0]}
    folder = folders.make_xl(tmp_path, **whitened)
    exact, engine = _engine(folder), _engine(folder, dtype=dtype)
    asked = ticket(exact, 0, prompt="a red fox", num_inference_steps=2)
    # bfloat16 has 8 significant bits.
    assert _differ(make(engine, [asked])[0], _stock(exact, asked)) <= (MAX_SHADES if dtype == "float32" else 8)


@pytest.mark.parametrize("scale", [1.0, 8.5])
def test_a_consistency_model_is_told_its_guidance(lcm: StableDiffusionEngine, scale: float) -> None:
    asked = ticket(lcm, 0, prompt="a red fox", guidance_scales=(scale,), num_inference_steps=4)
    before = lcm._assembly.networks(0, 0).denoiser.num_calls
    (group,) = make(lcm, [asked])
    assert lcm._assembly.networks(0, 0).denoiser.num_calls - before == 4
    assert _differ(group, _stock(lcm, asked)) <= MAX_SHADES


def test_images_are_generated_at_the_native_size_that_is_asked_for(engine: StableDiffusionEngine) -> None:
    asked = ticket(engine, 0, prompt="a red fox", native_height=32, native_width=24, height=32, width=24)
    expected = _stock(engine, asked, height=32, width=24)
    (group,) = make(engine, [asked])
    assert group.shape == (2, 32, 24, 3)
    assert _differ(group, expected) <= MAX_SHADES


def test_a_tiny_autoencoder_decodes_and_the_manifest_says_so(pipeline_folder: Path, tmp_path: Path) -> None:
    tiny = folders.make_tiny_autoencoder(tmp_path)
    engine = _engine(pipeline_folder, tiny_autoencoder=str(tiny))
    own = _engine(pipeline_folder)
    assert engine.manifest.settings["autoencoder"].startswith("tiny ")
    assert engine.manifest.digest != own.manifest.digest
    asked = ticket(engine, 0)
    (group,) = make(engine, [asked])
    assert group.shape == (2, 16, 16, 3)
    assert not equal([group], make(own, [asked]))


# --- company ----------------------------------------------------------------------------------------------------------


def _mixed(engine: StableDiffusionEngine) -> list[Ticket]:
    """Tickets that agree in nothing but the model."""
    return [
        ticket(engine, 0, num_images=3, num_inference_steps=4),
        ticket(engine, 1, num_images=1, guidance_scales=(1.0,), num_inference_steps=7),
        ticket(engine, 2, guidance_scales=(5.0,), num_inference_steps=3, scheduler="EulerAncestralDiscreteScheduler"),
        ticket(engine, 3, guidance_rescale=0.5, guidance_stop=0.5, num_inference_steps=4),
    ]


def _alone(engine: StableDiffusionEngine, tickets: Sequence[Ticket]) -> list[np.ndarray]:
    return [make(engine, [one])[0] for one in tickets]


def test_any_company_in_any_order_changes_no_bit(engine: StableDiffusionEngine) -> None:
    tickets = _mixed(engine)
    alone = dict(zip(tickets, _alone(engine, tickets), strict=True))
    for order in itertools.permutations(tickets):
        assert len({engine.company(one) for one in order}) == 1
        assert equal(make(engine, order), [alone[one] for one in order])


@pytest.mark.parametrize("kind", ["xl", "lcm"])
def test_company_changes_no_bit_of_other_models(kind: str, request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue(kind)
    tickets = [
        ticket(engine, index, num_inference_steps=2 + index, guidance_scales=(1.0 + index,)) for index in range(3)
    ]
    alone = _alone(engine, tickets)
    assert equal(make(engine, tickets), alone)
    assert equal(make(engine, tickets[::-1])[::-1], alone)


def test_an_image_in_bfloat16_keeps_its_bits_in_any_company(pipeline_folder: Path) -> None:
    engine = _engine(pipeline_folder, dtype="bfloat16")
    tickets = _mixed(engine)
    assert equal(make(engine, tickets), _alone(engine, tickets))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_company_changes_no_bit_on_a_gpu(backend: str, pipeline_folder: Path) -> None:
    engine = _engine(pipeline_folder, device="cuda", dtype="float16", backend=backend)
    tickets = _mixed(engine)
    alone = _alone(engine, tickets)
    for order in itertools.permutations(range(len(tickets))):
        assert equal(make(engine, [tickets[place] for place in order]), [alone[place] for place in order])


def test_what_cannot_be_made_is_said_of_its_ticket_and_spares_the_others(engine: StableDiffusionEngine) -> None:
    good, bad = ticket(engine, 0), ticket(engine, 1, scheduler="FlowMatchEulerDiscreteScheduler")
    (alone,) = make(engine, [good])
    first, second, third = engine.generate([bad, good, ticket(engine, 2, scheduler="NoSuchScheduler")])()
    assert isinstance(first, ModelError)
    assert isinstance(third, ModelError)
    assert isinstance(second, np.ndarray)
    assert np.array_equal(second, alone)


@pytest.mark.parametrize("flaw", [float("nan"), float("inf"), float("-inf")])
def test_a_group_that_is_no_number_is_said_of_its_ticket_and_spares_the_others(
    engine: StableDiffusionEngine, flaw: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, blocks = engine._decode, itertools.count()

    def break_second_block(networks: Networks, latents: torch.Tensor) -> torch.Tensor:
        images = decode(networks, latents)
        if next(blocks) == 1:
            images[0, 0, 3, 3] = flaw
        return images

    tickets = [ticket(engine, index, num_images=3) for index in range(3)]
    alone = _alone(engine, tickets)
    # Blocks of 3 images: each has a group.
    monkeypatch.setattr(engine, "_decode", break_second_block)
    first, second, third = engine.generate(tickets)()
    assert isinstance(second, ModelError)
    assert "not finite" in str(second)
    assert np.array_equal(first, alone[0])
    assert np.array_equal(third, alone[2])


def test_a_native_size_that_the_model_does_not_have_is_refused(engine: StableDiffusionEngine) -> None:
    with pytest.raises(ModelError, match="multiples of 2 for this model, got 17 and 16"):
        make(engine, [ticket(engine, 0, native_height=17, native_width=16)])
    assert make(engine, [ticket(engine, 0)]), "the engine serves on"


# --- work -------------------------------------------------------------------------------------------------------------


def test_a_prompt_is_encoded_once(engine: StableDiffusionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    encode = engine._prompts._encode

    def spy(block: Sequence[str]) -> Any:
        asked.extend(block)
        return encode(block)

    monkeypatch.setattr(engine._prompts, "_encode", spy)
    tickets = [ticket(engine, index, prompt=f"fox {index % 2}") for index in range(6)]
    make(engine, tickets)
    make(engine, tickets)
    assert asked == ["fox 0", "fox 1"]


def test_the_arithmetic_of_an_image_is_counted(engine: StableDiffusionEngine) -> None:
    """A guided image of n steps takes 2n rows of the denoiser and one of the decoder."""
    networks = engine._assembly.networks(0, 0)
    before = engine.work.flops or 0.0
    make(engine, [ticket(engine, 0, num_images=6, num_inference_steps=5)])
    spent = (engine.work.flops or 0.0) - before
    assert spent == pytest.approx(5 * 3 * networks.denoiser_flops + 2 * networks.decoder_flops)
    # The first convolution alone: 4 to 8 channels, 3 x 3, at 8 x 8, for 4 rows.
    assert networks.denoiser_flops > 4 * 2 * 8 * 4 * 9 * 64
    assert engine.work.matrix_flops_per_s is not None


def test_a_scheduler_whose_noise_has_no_seed_is_refused(engine: StableDiffusionEngine) -> None:
    with pytest.raises(ModelError, match="no seed fixes"):
        make(engine, [ticket(engine, 0, scheduler="DPMSolverSDEScheduler")])


def test_slots_are_the_configured_batch(engine: StableDiffusionEngine) -> None:
    assert engine.manifest.batch_images == BATCH
    shapes = set()
    denoiser = engine._assembly.networks(0, 0).denoiser
    call = denoiser._call

    def spy(*inputs: torch.Tensor) -> torch.Tensor:
        shapes.add(tuple(len(one) for one in inputs))
        return call(*inputs)

    denoiser._call = spy
    try:
        for num_images in (1, 3, 9):
            make(engine, [ticket(engine, 0, num_images=num_images)])
    finally:
        denoiser._call = call
    assert shapes == {(BATCH, BATCH, BATCH)}
