"""Prompt sources and the tickets made of them: what stands where in the stream."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.consumer.config import GeneratorConfig, TrainConfig
from penstock.consumer.prompts import TextFilePrompts, TicketWriter, open_source, owned_indices
from penstock.protocol.errors import ConfigError
from penstock.protocol.tickets import group_seed, prompt_id

DIGEST = "d" * 64


def _file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "captions.txt"
    path.write_bytes(content)
    return path


def _all(path: Path, count: int, seed: int = 0) -> list[str]:
    source = TextFilePrompts(path, seed)
    return [source.prompt(index) for index in range(count)]


def test_each_caption_comes_once_an_epoch_in_a_new_order(tmp_path: Path) -> None:
    captions = [f"caption {number}" for number in range(40)]
    path = _file(tmp_path, "\n".join(captions).encode())
    prompts = _all(path, 120)
    epochs = [prompts[start : start + 40] for start in (0, 40, 80)]
    assert all(sorted(epoch) == sorted(captions) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != captions


def test_the_index_decides_whatever_was_asked_before(tmp_path: Path) -> None:
    path = _file(tmp_path, b"a\nb\nc\nd\ne\n")
    expected = _all(path, 50)
    source = TextFilePrompts(path, 0)
    assert [source.prompt(index) for index in reversed(range(50))] == expected[::-1]
    assert [source.prompt(index) for index in (49, 0, 25, 0)] == [expected[i] for i in (49, 0, 25, 0)]


def test_another_seed_is_another_order(tmp_path: Path) -> None:
    path = _file(tmp_path, "\n".join(map(str, range(40))).encode())
    assert _all(path, 40, seed=0) != _all(path, 40, seed=1)


@pytest.mark.parametrize(
    "content",
    [
        b"a fox\na dog\n",
        b"a fox\r\na dog\r\n",
        b"a fox\ra dog",
        b"\xef\xbb\xbfa fox\na dog",
        b"\n\n  a fox \t\n \na dog\n\n",
    ],
    ids=["unix", "windows", "old mac", "byte order mark", "blank lines"],
)
def test_lines_are_read_as_every_editor_writes_them(content: bytes, tmp_path: Path) -> None:
    assert sorted(_all(_file(tmp_path, content), 2)) == ["a dog", "a fox"]


def test_only_line_ends_end_a_caption(tmp_path: Path) -> None:
    caption = "a fox\u2028in two\x0cparts\x85or more"
    assert _all(_file(tmp_path, caption.encode()), 1) == [caption]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no captions"),
        (b" \n\t\n", "no captions"),
        (b"\xef\xbb\xbf", "no captions"),
        (b"a fox\n\xff\xfe", "not UTF-8 at byte 6"),
        (b"a fox\n" + b"x" * 8193, ":2: the caption is longer than 8192 bytes"),
    ],
)
def test_a_file_that_cannot_serve_is_refused_in_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = _file(tmp_path, content)
    with pytest.raises(ConfigError, match=words) as caught:
        open_source(str(path), 0)
    assert str(path) in str(caught.value)
    assert "prompts.source" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_a_missing_file_or_a_folder_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts\.source: cannot read"):
        open_source(str(tmp_path / name), 0)


def test_toyworld_is_a_source_of_its_own() -> None:
    source = open_source("toyworld", 3)
    assert source.prompt(7) == open_source("toyworld", 3).prompt(7)
    assert all("handwritten" in source.prompt(index) for index in range(20))


# --- concepts ------------------------------------------------------------------------------------------------------


def test_toyworld_s_concepts_are_its_ten_digits() -> None:
    source = open_source("toyworld", 3)
    assert source.concepts == ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for index in range(200):
        caption = source.prompt(index)
        assert source.concepts[source.concept(caption)] in caption.split()
    assert len({source.concept(source.prompt(index)) for index in range(200)}) == 10
    assert source.concept("a handwritten seven in dark blue ink on pink paper") == 7


TAGGED = b"fox\ta red fox\ndog\ta dog in snow\nfox\ta fox at night\n"


def test_a_tabbed_file_names_the_concept_of_every_caption(tmp_path: Path) -> None:
    source = TextFilePrompts(_file(tmp_path, TAGGED), 0)
    assert source.concepts == ("dog", "fox"), "in an order that the file's does not change"
    assert sorted(source.prompt(index) for index in range(3)) == ["a dog in snow", "a fox at night", "a red fox"]
    assert [source.concept(prompt) for prompt in ("a red fox", "a dog in snow", "a fox at night")] == [1, 0, 1]


@pytest.mark.parametrize(
    "content",
    [
        TAGGED,
        TAGGED.replace(b"\n", b"\r\n"),
        TAGGED.replace(b"\n", b"\r"),
        b"\xef\xbb\xbf" + TAGGED,
        b"\n  fox \t  a red fox  \n\n\tdog\t a dog in snow\t\n \t \nfox\ta fox at night",
    ],
    ids=["unix", "windows", "old mac", "byte order mark", "white space"],
)
def test_concepts_are_read_as_every_editor_writes_them(content: bytes, tmp_path: Path) -> None:
    source = TextFilePrompts(_file(tmp_path, content), 0)
    assert source.concepts == ("dog", "fox")
    found = {source.prompt(index): source.concepts[source.concept(source.prompt(index))] for index in range(3)}
    assert found == {"a red fox": "fox", "a dog in snow": "dog", "a fox at night": "fox"}


def test_only_the_first_tab_parts_concept_and_caption(tmp_path: Path) -> None:
    source = TextFilePrompts(_file(tmp_path, b"fox\ta\tred fox\ndog\ta dog"), 0)
    assert source.concept("a\tred fox") == 1
    assert {source.prompt(index) for index in range(2)} == {"a\tred fox", "a dog"}


def test_a_file_without_tabs_has_no_concepts(tmp_path: Path) -> None:
    source = TextFilePrompts(_file(tmp_path, b"a fox\na dog\n"), 0)
    assert source.concepts == ()
    assert source.concept("a fox") == -1


def test_a_caption_may_come_twice_with_one_concept(tmp_path: Path) -> None:
    source = TextFilePrompts(_file(tmp_path, b"fox\ta fox\nfox\ta fox\ndog\ta dog\n"), 0)
    assert sorted(source.prompt(index) for index in range(3)) == ["a dog", "a fox", "a fox"]
    assert source.concept("a fox") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"fox\ta fox\na dog\n", r"1 of 2 lines are CONCEPT<tab>CAPTION, 'a dog' is not"),
        (b"a dog\nfox\ta fox\ncat\ta cat\n", r"2 of 3 lines are CONCEPT<tab>CAPTION, 'a dog' is not"),
        (b"fox\ta fox\ndog\t\n", r"1 of 2 lines are CONCEPT<tab>CAPTION, 'dog' is not"),
        (b"fox\ta fox\n\ta dog\n", r"1 of 2 lines are CONCEPT<tab>CAPTION, 'a dog' is not"),
        (b"fox\ta fox\ndog\ta fox\n", r"'a fox' must have one concept, got 'dog' and 'fox'"),
    ],
)
def test_captions_have_one_concept_each_or_none_at_all(content: bytes, words: str, tmp_path: Path) -> None:
    path = _file(tmp_path, content)
    with pytest.raises(ConfigError, match=words) as caught:
        open_source(str(path), 0)
    assert str(path) in str(caught.value)
    assert "prompts.source" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_spellings_of_one_prompt_have_one_concept(tmp_path: Path) -> None:
    """They share a prompt_id, and so are one prompt everywhere else."""
    assert prompt_id("A  fox") == prompt_id("a fox")
    with pytest.raises(ConfigError, match="must have one concept, got 'dog' and 'fox'"):
        open_source(str(_file(tmp_path, b"fox\ta fox\ndog\tA  fox\n")), 0)


def test_the_digest_changes_with_captions_and_with_concepts(tmp_path: Path) -> None:
    contents = [
        b"a fox\na dog",
        b"a dog\na fox",
        b"fox\ta fox\ndog\ta dog",
        b"cat\ta fox\ndog\ta dog",
        b"dog\ta fox\nfox\ta dog",
    ]
    digests = [TextFilePrompts(_file(tmp_path, content), 0).digest for content in contents]
    assert len(set(digests)) == len(contents)
    assert TextFilePrompts(_file(tmp_path, b"a fox\r\na dog\r\n"), 7).digest == digests[0]


@given(st.integers(1, 9), st.integers(0, 100))
def test_the_ranks_own_every_index_once(world_size: int, start: int) -> None:
    taken = []
    for rank in range(world_size):
        owned = owned_indices(rank, world_size, start)
        mine = [next(owned) for _ in range(10)]
        assert all(index % world_size == rank and index >= start for index in mine)
        taken += mine
    assert sorted(taken) == list(range(start, start + 10 * world_size))


def _writer(tmp_path: Path) -> TicketWriter:
    path = _file(tmp_path, b"a fox\nA  fox\na dog\n")
    guidance = {"guidance_scale": 1.5, "guidance_rescale": 0.7, "guidance_start": 0.2, "guidance_stop": 0.8}
    sizes = {"native_height": 64, "native_width": 96, "height": 16, "width": 24}
    generator = GeneratorConfig(images_per_group=3, num_inference_steps=2, **guidance, **sizes)  # type: ignore[arg-type]
    return TicketWriter(open_source(str(path), 11), TrainConfig(seed=11, generator=generator), DIGEST)


def test_a_ticket_carries_the_configuration_and_its_own_seed(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    for index in range(9):
        ticket = writer.write(index, index % 3, need_by_step=index + 5)
        assert (ticket.index, ticket.rank, ticket.attempt, ticket.stand_in) == (index, index % 3, 0, 0)
        assert ticket.need_by_step == index + 5
        recipe = ticket.recipe
        assert recipe.shape == (3, 16, 24, 3)
        assert (recipe.native_height, recipe.native_width) == (64, 96)
        assert (recipe.guidance_rescale, recipe.guidance_start, recipe.guidance_stop) == (0.7, 0.2, 0.8)
        assert (recipe.guidance_scales, recipe.num_inference_steps, recipe.scheduler) == ((1.5,), 2, "default")
        assert recipe.model_digest == DIGEST
        assert recipe.seed == group_seed(11, prompt_id(recipe.prompt), index)


def test_equal_prompts_share_a_label_and_no_image(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    tickets = [writer.write(index, 0, 0) for index in range(30)]
    foxes = [ticket for ticket in tickets if "fox" in ticket.recipe.prompt]
    assert len({prompt_id(ticket.recipe.prompt) for ticket in foxes}) == 1
    seeds = [seed for ticket in tickets for seed in ticket.recipe.image_seeds]
    assert len(set(seeds)) == len(seeds)


def test_a_stand_in_has_the_place_of_its_group_and_another_recipe(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    poison = writer.write(6, 0, need_by_step=4)
    first = writer.stand_in(poison)
    second = writer.stand_in(first)
    assert [(ticket.index, ticket.rank, ticket.need_by_step) for ticket in (first, second)] == [(6, 0, 4)] * 2
    assert (first.stand_in, second.stand_in) == (1, 2)
    assert len({poison.recipe.seed, first.recipe.seed, second.recipe.seed}) == 3
    assert writer.write(6, 0, need_by_step=4, stand_in=2) == second, "and so it can be made again in another life"
    source = open_source(str(tmp_path / "captions.txt"), 11)
    assert first.recipe.prompt == source.prompt(6 + 2**40)
    assert first.recipe.seed == group_seed(11, prompt_id(first.recipe.prompt), 6 + 2**40)
