"""Identities, seeds and the rules of recipes and tickets.

The expected hashes are computed here from the documented recipe: 63 bits of BLAKE2b, personalised, of parts
joined by the unit separator. A change of any of them would silently relabel every run.
"""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.protocol.limits import MAX_IMAGE_SIDE, MAX_IMAGES_PER_GROUP, MAX_INT, MAX_PROMPT_BYTES
from penstock.protocol.tickets import Recipe, Ticket, group_seed, image_seed, normalise_prompt, prompt_id
from tests.protocol.samples import MANIFEST

RECIPE = Recipe(
    prompt="a red fox",
    seed=7,
    num_images=4,
    guidance_scales=(2.0,),
    num_inference_steps=8,
    scheduler="default",
    height=32,
    width=48,
    model_digest="ab",
)


def _reference_hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8, person=b"penstock").digest()
    return int.from_bytes(digest, "big") // 2


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("a red fox", "a red fox"),
        ("  A  Red\tFOX\r\n", "a red fox"),
        ("\u00a0a\u2003red fox", "a red fox"),
        ("ﬁne", "fine"),
        ("Ａ１", "a1"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("cafe\u0301", "caf\u00e9"),
        ("", ""),
    ],
)
def test_prompts_are_normalised_by_nfkc_case_and_white_space(text: str, normal: str) -> None:
    assert normalise_prompt(text) == normal


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_normalising_makes_white_space_single_and_drops_it_at_the_ends(text: str) -> None:
    normal = normalise_prompt(text)
    assert normal == normal.strip()
    assert not any(character.isspace() and character != " " for character in normal)
    assert "  " not in normal


def test_prompt_id_is_blake2b_of_the_normalised_text() -> None:
    assert prompt_id("  A red  FOX ") == _reference_hash("prompt\x1fa red fox")


def test_group_and_image_seeds_are_blake2b_of_their_parts() -> None:
    prompt = prompt_id("a red fox")
    assert group_seed(11, prompt, 3) == _reference_hash(f"group\x1f11\x1f{prompt}\x1f3")
    assert image_seed(42, 1) == _reference_hash("image\x1f42\x1f1")


def test_known_values_never_change() -> None:
    # Written down once, so that a change of the recipe here and there at a time cannot pass either.
    assert prompt_id("a handwritten seven in dark blue ink") == 6771056728420530977
    assert group_seed(0, 1, 2) == 6911821911079530360
    assert image_seed(0, 0) == 6338868076275699199


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, MAX_INT), st.integers(0, MAX_INT))
def test_ids_and_seeds_fit_a_signed_64_bit_label(text: str, seed: int, index: int) -> None:
    values = prompt_id(text), group_seed(seed, prompt_id(text), index), image_seed(seed, index)
    assert all(0 <= value < 2**63 for value in values)


def test_one_prompt_at_two_places_gives_one_label_and_two_seeds() -> None:
    prompt = prompt_id("a red fox")
    assert prompt == prompt_id("A red fox")
    seeds = {group_seed(run, prompt, index) for run in range(3) for index in range(50)}
    assert len(seeds) == 150


def test_every_image_of_a_group_has_a_seed_of_its_own() -> None:
    seeds = {seed for group in range(20) for seed in replace(RECIPE, seed=group, num_images=64).image_seeds}
    assert len(seeds) == 20 * 64
    assert RECIPE.image_seeds == tuple(_reference_hash(f"image\x1f7\x1f{image}") for image in range(4))


def test_neighbouring_parts_are_not_confused() -> None:
    # 1,23 and 12,3 must differ although their digits joined are the same.
    assert image_seed(1, 23) != image_seed(12, 3)
    assert group_seed(1, 2, 34) != group_seed(1, 23, 4)


def test_a_recipe_states_its_buffer() -> None:
    assert RECIPE.shape == (4, 32, 48, 3)
    assert RECIPE.nbytes == 4 * 32 * 48 * 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""),
        ("prompt", " \t\n"),
        ("prompt", "x" * (MAX_PROMPT_BYTES + 1)),
        ("prompt", "é" * (MAX_PROMPT_BYTES // 2 + 1)),
        ("prompt", "half a pair \ud800"),
        ("seed", -1),
        ("seed", MAX_INT + 1),
        ("num_images", 0),
        ("num_images", MAX_IMAGES_PER_GROUP + 1),
        ("guidance_scales", (-0.1,)),
        ("guidance_scales", (float("nan"),)),
        ("guidance_scales", (float("inf"),)),
        ("guidance_scales", (1000.001,)),
        ("guidance_scales", (2.0005,)),
        ("guidance_scales", (2.0, -1.0, 2.0, 2.0)),
        ("guidance_scales", ()),
        ("guidance_scales", (2.0,) * 3),
        ("candidates", (0, 1, 2)),
        ("candidates", (0, 1, 2, 3, 4)),
        ("candidates", (0, 1, 2, 2)),
        ("candidates", (-1, 1, 2, 3)),
        ("candidates", (0, 1, 2, 65_536)),
        ("guidance_rescale", -0.01),
        ("guidance_rescale", 1.01),
        ("guidance_rescale", float("nan")),
        ("guidance_start", -0.01),
        ("guidance_start", 1.01),
        ("guidance_start", float("nan")),
        ("guidance_stop", -0.01),
        ("guidance_stop", 1.01),
        ("guidance_stop", float("nan")),
        ("num_inference_steps", 0),
        ("num_inference_steps", 10_001),
        *((f"native_{side}", value) for side in ("height", "width") for value in (-1, 1, 7, 8193)),
        ("height", 0),
        ("height", MAX_IMAGE_SIDE + 1),
        ("width", 0),
        ("width", MAX_IMAGE_SIDE + 1),
    ],
)
def test_a_recipe_that_breaks_a_rule_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must .*, got "):
        replace(RECIPE, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "x" * MAX_PROMPT_BYTES),
        ("seed", 0),
        ("seed", MAX_INT),
        ("num_images", 1),
        ("num_images", MAX_IMAGES_PER_GROUP),
        ("guidance_scales", (0.0,)),
        ("guidance_scales", (1000.0, 0.001, 2.5, 0.0)),
        ("candidates", (65_535, 0, 7, 3)),
        ("guidance_rescale", 0.0),
        ("guidance_rescale", 1.0),
        ("guidance_start", 0.0),
        ("guidance_start", 1.0),
        ("guidance_stop", 0.0),
        ("guidance_stop", 1.0),
        ("height", MAX_IMAGE_SIDE),
    ],
)
def test_a_recipe_at_its_limits_is_good(field: str, value: object) -> None:
    assert getattr(replace(RECIPE, **{field: value}), field) == value


FILTER = {"scorer_digest": "5c", "min_score": 0.5, "num_candidates": 5, "max_candidates": 9}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"scorer_digest": "S"}, "scorer_digest must be 1 to 64"),
        ({"min_score": 1.01}, r"min_score must be in \[-1, 1\]"),
        ({"min_score": float("nan")}, r"min_score must be in \[-1, 1\]"),
        ({"num_candidates": 3}, r"num_candidates must be >= num_images \(4\)"),
        ({"max_candidates": 4}, r"max_candidates must be in \[num_candidates \(5\), 65536\]"),
        ({"max_candidates": 65_537}, "max_candidates must be in"),
        ({"candidates": (0, 1, 2, 3)}, "candidates must be none beside scorer_digest"),
        ({"scorer_digest": ""}, "min_score, num_candidates and max_candidates need a scorer"),
    ],
)
def test_a_filter_that_breaks_a_rule_is_refused(change: dict[str, Any], rule: str) -> None:
    assert replace(RECIPE, **FILTER).is_filtered
    with pytest.raises(ValueError, match=f"^{rule}.*, got "):
        replace(RECIPE, **FILTER | change)


@pytest.mark.parametrize("name", ["min_score", "num_candidates", "max_candidates"])
def test_a_recipe_has_all_that_a_filter_needs_or_none_of_it(name: str) -> None:
    with pytest.raises(ValueError, match="need a scorer"):
        replace(RECIPE, **{name: FILTER[name]})


def test_images_have_the_seeds_and_scales_of_their_candidates() -> None:
    each = replace(RECIPE, guidance_scales=(1.0, 2.0, 3.0, 4.0))
    assert (RECIPE.image_scales, each.image_scales) == ((2.0,) * 4, (1.0, 2.0, 3.0, 4.0))
    chosen = replace(each, **FILTER).choose((1, 4, 6))
    assert (chosen.num_images, chosen.is_filtered) == (3, False)
    assert chosen.image_seeds == tuple(image_seed(7, candidate) for candidate in (1, 4, 6))
    # Candidates 4 and 6 of m = 4 have the scales of images 0 and 2.
    assert chosen.image_scales == (2.0, 1.0, 3.0)
    assert replace(RECIPE, **FILTER).choose((1, 4, 6)).guidance_scales == (2.0,)
    assert each.choose(range(4)).image_seeds == each.image_seeds


def test_what_is_made_at_first_counts_where_batches_are_filled() -> None:
    assert (RECIPE.num_first, replace(RECIPE, **FILTER).num_first) == (4, 5)


def test_guidance_does_not_stop_before_it_starts() -> None:
    assert replace(RECIPE, guidance_start=0.5, guidance_stop=0.5).guidance_stop == 0.5
    with pytest.raises(ValueError, match=r"^guidance_stop must be in \[guidance_start \(0\.5\), 1\], got 0\.49$"):
        replace(RECIPE, guidance_start=0.5, guidance_stop=0.49)


@pytest.mark.parametrize("native", [(0, 0), (8, 8), (8, 8192), (8192, 8)])
def test_the_model_s_size_is_its_own_or_both_sides_of_another(native: tuple[int, int]) -> None:
    recipe = replace(RECIPE, native_height=native[0], native_width=native[1])
    assert recipe.shape == (4, 32, 48, 3), "what is kept is not what is made"


@pytest.mark.parametrize("native", [(0, 8), (8192, 0)])
def test_one_side_of_the_model_s_size_alone_is_refused(native: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"^native_height and native_width must be 0 both or neither, got \("):
        replace(RECIPE, native_height=native[0], native_width=native[1])


def test_a_recipe_that_says_no_more_is_guided_all_the_way_at_the_model_s_own_size() -> None:
    assert (RECIPE.guidance_rescale, RECIPE.guidance_start, RECIPE.guidance_stop) == (0.0, 0.0, 1.0)
    assert (RECIPE.native_height, RECIPE.native_width) == (0, 0)


@pytest.mark.parametrize("field", ["index", "rank", "attempt", "need_by_step"])
@pytest.mark.parametrize("value", [-1, MAX_INT + 1])
def test_a_ticket_with_an_impossible_place_is_refused_by_name(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must be in \[0, "):
        Ticket(**({"index": 0, "rank": 0, "recipe": RECIPE} | {field: value}))


def test_the_next_attempt_changes_nothing_but_the_attempt() -> None:
    ticket = Ticket(index=5, rank=1, need_by_step=3, recipe=RECIPE)
    again = ticket.again()
    assert again.attempt == 1
    assert replace(again, attempt=0) == ticket


@pytest.mark.parametrize("codec", ["", "jpeg", "jpeg-0", "jpeg-101", "png", "raw "])
def test_a_manifest_with_no_known_codec_is_refused_by_name(codec: str) -> None:
    with pytest.raises(ValueError, match=rf"^codec must be raw or jpeg-Q .*, got {codec!r}"):
        replace(MANIFEST, codec=codec)


def test_engines_of_different_codecs_promise_different_bits() -> None:
    digests = {replace(MANIFEST, codec=codec).digest for codec in ("raw", "jpeg-92", "jpeg-93")}
    assert len(digests) == 3
    assert [replace(MANIFEST, codec=codec).is_lossy for codec in ("raw", "jpeg-100")] == [False, True]


def test_engines_of_different_settings_promise_different_bits() -> None:
    settings: list[dict[str, str]] = [{}, {"vae": "full"}, {"vae": "tiny"}, {"unet": "full"}]
    assert len({replace(MANIFEST, settings=chosen).digest for chosen in settings}) == 4
    assert replace(MANIFEST, settings={}, versions={"vae": "full"}).digest != replace(MANIFEST, versions={}).digest


@pytest.mark.parametrize("field", ["settings", "versions"])
@pytest.mark.parametrize(
    ("entries", "rule"),
    [
        ({f"name {number}": "x" for number in range(65)}, r" must be at most 64, got 65"),
        ({"": "x"}, r" must have 1 to 200 characters, got 0"),
        ({"x" * 201: "x"}, r" must have 1 to 200 characters, got 201"),
        ({"a\nb": "x"}, r" must be printable"),
        ({"vae": ""}, r"\.vae must have 1 to 200 characters, got 0"),
        ({"vae": "x" * 201}, r"\.vae must have 1 to 200 characters, got 201"),
        ({"vae": "\x1b[2J"}, r"\.vae must be printable"),
    ],
    ids=["many", "no name", "long name", "unprintable name", "no value", "long value", "unprintable value"],
)
def test_a_manifest_with_impossible_names_is_refused(field: str, entries: dict[str, str], rule: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}{rule}"):
        replace(MANIFEST, **{field: entries})


@pytest.mark.parametrize("field", ["settings", "versions"])
def test_a_manifest_with_as_many_and_as_long_names_as_may_be_is_good(field: str) -> None:
    entries = {f"{number:0200}": "x" * 200 for number in range(64)}
    assert getattr(replace(MANIFEST, **{field: entries}), field) == entries
