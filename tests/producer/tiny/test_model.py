from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from numpy.typing import NDArray
from transformers import CLIPTokenizer

from penstock.producer.tiny.digit_reader import load_reader, real_accuracy
from penstock.producer.tiny.tokenizer import learn_merges, make_tokenizer
from penstock.toyworld.captions import VOCABULARY, Captioner, caption

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "producer" / "tiny_sd"
READER = ROOT / "benchmarks" / "digit_reader.safetensors"
GUIDANCE, STEPS = 2.5, 6


@pytest.fixture(scope="module")
def pipeline() -> Any:
    torch.set_num_threads(1)
    loaded = DiffusionPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def generate(pipeline: Any, prompts: list[str], seeds: list[int]) -> NDArray[np.uint8]:
    """Images uint8 [N, 32, 32, 3], one generator per image."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    images = pipeline(
        prompts, guidance_scale=GUIDANCE, num_inference_steps=STEPS, generator=generators, output_type="np"
    ).images
    return np.asarray(np.rint(images * 255), np.uint8)


def test_folder_is_small_and_holds_safetensors_only() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    assert {path.suffix for path in files} == {".json", ".txt", ".md", ".safetensors"}


def test_ordinary_loader_yields_a_stable_diffusion_pipeline(pipeline: Any) -> None:
    assert isinstance(pipeline, StableDiffusionPipeline)
    assert pipeline.safety_checker is None
    assert isinstance(pipeline.tokenizer, CLIPTokenizer)


def test_weights_are_finite_and_far_from_the_half_precision_limit(pipeline: Any) -> None:
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        assert max(float(weight.detach().abs().max()) for weight in part.parameters()) < 1000


def test_every_word_is_one_token_and_every_caption_fits(pipeline: Any) -> None:
    tokenizer = pipeline.tokenizer
    for word in VOCABULARY:
        assert len(tokenizer(word).input_ids) == 3  # start, word, end
    longest = caption(7, "dark blue", "light green")
    assert len(tokenizer(longest).input_ids) <= tokenizer.model_max_length


def test_generator_obeys_its_prompts(pipeline: Any) -> None:
    captions = [Captioner(seed=99).prompt(index) for index in range(100)]
    images = generate(pipeline, [item.text for item in captions], list(range(100)))
    digits = np.array([item.digit for item in captions])
    assert (load_reader(READER).read(images) == digits).mean() >= 0.8


def test_reader_reads_real_renders() -> None:
    assert real_accuracy(load_reader(READER)) >= 0.9


def test_image_depends_on_its_own_generator_only(pipeline: Any) -> None:
    prompt, other = caption(3), caption(8, "black", "pink")
    first = generate(pipeline, [prompt, other, other, prompt], [5, 6, 7, 8])
    second = generate(pipeline, [other, other, prompt, other], [1, 2, 5, 3])
    np.testing.assert_array_equal(first[0], second[2])
    assert (first[0] != first[3]).any()


def test_bfloat16_draws_nearly_the_same_images(pipeline: Any) -> None:
    half = StableDiffusionPipeline.from_pretrained(MODEL, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    prompts = [caption(digit) for digit in range(8)]
    full = generate(pipeline, prompts, list(range(8))).astype(float)
    assert np.abs(generate(half, prompts, list(range(8))) - full).mean() < 8


def test_merges_spell_every_word_as_in_byte_pair_encoding() -> None:
    # "ab" and "abc": the pair "a", "b" is commonest but for the word's end, which makes "b</w>" another symbol.
    assert learn_merges(["ab", "abc", "abd"]) == [("a", "b"), ("a", "b</w>"), ("ab", "c</w>"), ("ab", "d</w>")]


def test_unknown_words_are_spelt_in_letters(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(["seven"], tmp_path, 16)
    assert tokenizer.tokenize("Seven cats") == ["seven</w>", "c", "a", "t", "s</w>"]
    assert tokenizer("seven").input_ids[0] == 0
    assert tokenizer("seven").input_ids[-1] == 1
