"""Balanced captions: the shares that were asked for, on every rank, with changing company, and no silent gap."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.consumer.config import TrainConfig
from penstock.consumer.learning_config import ObjectiveConfig
from penstock.consumer.making_config import GeneratorConfig, PromptsConfig
from penstock.consumer.prompts.balance.balanced import BalancedCaptions
from penstock.consumer.prompts.balance.histogram import describe
from penstock.consumer.prompts.captions import ListedCaptions
from penstock.consumer.prompts.mixed import MixedPrompts
from penstock.consumer.prompts.opening import check_gaps, open_source
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.prompts.writer import STAND_IN_STRIDE, TicketWriter
from penstock.protocol.errors import ConfigError

#: 1 : 50, geometric.
TAIL = {f"c{rank}": round(200 * 50 ** (-rank / 9)) for rank in range(10)}


def _file(folder: Path, counts: dict[str, int], bare: int = 0) -> Path:
    path = folder / "captions.txt"
    lines = [f"{name}\t{name} number {number}" for name, count in counts.items() for number in range(count)]
    path.write_text("\n".join([*lines, *["nothing"] * bare]))
    return path


def _open(path: Path, balance: str, seed: int = 5, **settings: Any) -> PromptSource:
    return open_source(PromptsConfig(source=str(path), balance=balance, **settings), seed)  # type: ignore[arg-type]


def _drawn(source: PromptSource, indices: range) -> NDArray[np.int64]:
    """Concepts at the indices."""
    return np.array([source.prompt(index).concept for index in indices])


TARGETS = {
    "sqrt": lambda counts: counts**0.5,
    "uniform": lambda counts: counts**0,
    "metaclip": lambda c: np.minimum(c, 30),
}


@pytest.mark.parametrize("mode", list(TARGETS))
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (2, 3), (3, 4)])
def test_concepts_have_their_share_at_every_time_on_every_rank(
    mode: str, rank: int, world_size: int, tmp_path: Path
) -> None:
    source = _open(_file(tmp_path, TAIL), mode, balance_count=30)
    counts = np.array([TAIL[name] for name in source.concepts], dtype=float)
    shares = TARGETS[mode](counts) / TARGETS[mode](counts).sum()
    drawn = _drawn(source, range(rank, 40_000 * world_size, world_size))
    met = np.cumsum(drawn[:, None] == np.arange(10), axis=0)
    num = np.arange(1, len(drawn) + 1)[:, None]
    deviation = np.abs(met - num * shares)
    # By luck alone the commonest would be off by a hundred.
    assert np.all(deviation <= 4 + world_size * np.log(num))


def test_all_captions_of_a_concept_come_before_any_comes_again(tmp_path: Path) -> None:
    source = _open(_file(tmp_path, {"a": 60, "b": 7}), "uniform")
    texts: dict[int, list[str]] = {0: [], 1: []}
    for index in range(9000):
        prompt = source.prompt(index)
        texts[prompt.concept].append(prompt.text)
    for concept, num in ((0, 60), (1, 7)):
        uses = Counter(texts[concept])
        assert len(uses) == num
        assert max(uses.values()) - min(uses.values()) <= 1
    orders = [tuple(texts[1][start : start + 7]) for start in range(0, 700, 7)]
    assert len(set(orders)) > 50, "in another order each time"


def test_a_draw_depends_on_seed_and_index_alone(tmp_path: Path) -> None:
    path = _file(tmp_path, TAIL)
    source = _open(path, "sqrt")
    indices = [*range(0, 20_000, 97), *(STAND_IN_STRIDE * n + 3 for n in range(1, 9)), 2**62]
    expected = [source.prompt(index) for index in indices]
    shuffled = list(zip(indices, expected, strict=True))
    random.Random(1).shuffle(shuffled)
    again = _open(path, "sqrt")
    assert all(again.prompt(index) == prompt for index, prompt in shuffled)
    other = _open(path, "sqrt", seed=6)
    assert sum(other.prompt(index) == prompt for index, prompt in shuffled) < len(indices) / 2


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 4)])
def test_many_concepts_have_their_share_of_all_ranks_and_each_rank_what_chance_gives(
    rank: int, world_size: int
) -> None:
    num_concepts = 500
    names = [f"c{number:05}" for number in range(num_concepts)]
    captions = ListedCaptions(names, "digest", names)
    assert captions.concept_codes is not None
    weights = np.arange(1, num_concepts + 1, dtype=float)
    source = BalancedCaptions(captions, captions.concept_codes, weights, seed=2)
    num = 100_000
    met = np.bincount([source.row(index) for index in range(rank, num * world_size, world_size)])
    expected = num * weights / weights.sum()
    within = 4 + np.log(num) if world_size == 1 else 5 * np.sqrt(expected) + 4
    assert np.all(np.abs(met - expected) <= within)


def test_draws_stay_what_they_are(tmp_path: Path) -> None:
    """A run is resumed on another machine, with another NumPy: made on x86 with NumPy 2.4."""
    few = _open(_file(tmp_path, TAIL), "sqrt", seed=1)
    assert [few.prompt(index).text for index in range(6)] == [
        *("c1 number 64", "c6 number 3", "c2 number 32", "c0 number 170", "c4 number 27", "c1 number 122")
    ]
    names = [f"c{number:05}" for number in range(500)]
    captions = ListedCaptions(names, "digest", names)
    assert captions.concept_codes is not None
    many = BalancedCaptions(captions, captions.concept_codes, np.ones(500), seed=2)
    assert [many.row(index) for index in (0, 1, 2, 2**20, 2**42)] == [7, 294, 458, 314, 44]


def _company(rows_NB: NDArray[np.int64], concept: int) -> int:
    """How many concepts ever meet `concept` in a batch."""
    return len(set(rows_NB[(rows_NB == concept).any(axis=1)].ravel().tolist()) - {concept})


@pytest.mark.parametrize("num_concepts", [40, 65, 300, 3000])
def test_company_changes_as_it_does_by_chance(num_concepts: int) -> None:
    """Every concept must meet as many others in its batches as it would by random draws."""
    names = [f"c{number:05}" for number in range(num_concepts)]
    captions = ListedCaptions(names, "digest", names)
    assert captions.concept_codes is not None
    source = BalancedCaptions(captions, captions.concept_codes, np.ones(num_concepts), seed=2)
    batch, num_batches = 32, 2 * num_concepts
    ours = np.array([source.row(index) for index in range(batch * num_batches)]).reshape(num_batches, batch)
    chance = np.random.default_rng(0).integers(num_concepts, size=ours.shape)
    concepts = range(0, num_concepts, max(1, num_concepts // 30))
    met, expected = (np.mean([_company(rows, concept) for concept in concepts]) for rows in (ours, chance))
    assert met > 0.95 * expected
    # And no pair of them meets much more often than another.
    together = _meetings(ours, num_concepts)
    assert together.max() <= 2 + together.mean() + 5 * together.mean() ** 0.5


def _meetings(rows_NB: NDArray[np.int64], num_concepts: int) -> NDArray[np.int64]:
    """How often each other concept is in a batch with the first."""
    together = np.bincount(rows_NB[(rows_NB == 0).any(axis=1)].ravel(), minlength=num_concepts)
    return together[1:]


def test_captions_of_one_concept_in_a_batch_are_not_always_the_same_ones(tmp_path: Path) -> None:
    source = _open(_file(tmp_path, {"a": 40, "b": 40}), "uniform")
    batches = [
        frozenset(source.prompt(index).text for index in range(start, start + 16)) for start in range(0, 8000, 16)
    ]
    assert len(set(batches)) == len(batches)
    beside = Counter(text for batch in batches if "a number 3" in batch for text in batch)
    assert len(beside) == 80


def test_captions_that_weigh_almost_alike_are_one_run() -> None:
    """Else each would be alone, and meet the same neighbours for ever."""
    rng = np.random.default_rng(0)
    num = 4000
    weights = 1 + rng.random(num)
    captions = ListedCaptions([f"{row}" for row in range(num)], "digest", ["a"] * num)
    assert captions.concept_codes is not None
    source = BalancedCaptions(captions, captions.concept_codes, weights, seed=0)
    drawn = np.bincount([source.row(index) for index in range(20 * num)], minlength=num)
    expected = 20 * num * weights / weights.sum()
    assert np.all(np.abs(drawn - expected) <= 0.01 * expected + 2.5)


# --- what a run makes of it ----------------------------------------------------------------------------------------


def test_real_groups_in_between_change_nothing_of_the_balance(tmp_path: Path) -> None:
    real = ListedCaptions(["photo 1", "photo 2"], "real", ["c0", "c1"])
    source = _open(_file(tmp_path, TAIL), "uniform")
    real_source = BalancedCaptions(real, np.array([0, 1], dtype=np.int32), np.ones(2), 0)
    mixed = MixedPrompts(source, real_source, 0.5, 5)
    generated = [mixed.prompt(index) for index in range(20_000) if not mixed.is_real(index)]
    counts = Counter(mixed.concepts[prompt.concept] for prompt in generated)
    assert set(counts) == set(TAIL)
    assert max(counts.values()) - min(counts.values()) <= 6
    stand_in = mixed.prompt(next(n for n in range(9) if not mixed.is_real(n)) + STAND_IN_STRIDE)
    assert mixed.concepts[stand_in.concept] in TAIL


def test_a_stand_in_has_another_recipe_of_the_same_place(tmp_path: Path) -> None:
    source = _open(_file(tmp_path, TAIL), "sqrt")
    writer = TicketWriter(source, TrainConfig(generator=GeneratorConfig(height=32, width=32)), "d" * 64)
    ticket = writer.write(11, 0, 0)
    stand_in = writer.stand_in(ticket)
    assert stand_in.index == 11
    assert stand_in.recipe.seed != ticket.recipe.seed
    assert writer.concept(stand_in) == source.prompt(11 + STAND_IN_STRIDE).concept


def test_the_digest_changes_with_the_balance_and_not_with_the_seed(tmp_path: Path) -> None:
    path = _file(tmp_path, TAIL)
    sources = [_open(path, "natural"), _open(path, "sqrt"), _open(path, "uniform")]
    sources += [_open(path, "metaclip", balance_count=count) for count in (10, 20)]
    assert len({source.digest for source in sources}) == 5
    assert _open(path, "sqrt", seed=9).digest == sources[1].digest


def test_captions_without_a_concept_are_counted_and_left_out(tmp_path: Path) -> None:
    path, concepts = tmp_path / "captions.txt", tmp_path / "concepts.txt"
    path.write_text("a fox\na red fox\na dog\nnothing\nfoxes\n")
    concepts.write_text("fox\ndog|hound\nwolf\n")
    told: list[str] = []
    config = PromptsConfig(source=str(path), concepts=str(concepts), balance="uniform")
    source = open_source(config, 0, told.append)
    assert source.concepts == ("fox", "dog", "wolf")
    assert {source.prompt(index).text for index in range(100)} == {"a fox", "a red fox", "a dog"}
    assert told[0] == "2 of 5 captions have no concept: they are left out"
    assert told[1:] == [
        "balance uniform: captions of 2 concepts (1 more have none): "
        "most of 'fox' 2, 'dog' 1; fewest of 'dog' 1, 'fox' 2",
        "balance uniform: the rarer half of the concepts, 1, has 33.33% of the captions, "
        "and gets 50.00% of the prompts; the rest 50.00%",
        "balance uniform: each of 2 concepts gets 50.00% of the prompts",
    ]


def test_without_balance_they_come_too_and_the_log_says_so(tmp_path: Path) -> None:
    path, concepts = tmp_path / "captions.txt", tmp_path / "concepts.txt"
    path.write_text("a fox\na dog\nnothing\n")
    concepts.write_text("fox\ndog\n")
    told: list[str] = []
    source = open_source(PromptsConfig(source=str(path), concepts=str(concepts)), 0, told.append)
    assert {(prompt.text, prompt.concept) for prompt in map(source.prompt, range(3))} == {
        ("a fox", 0),
        ("a dog", 1),
        ("nothing", -1),
    }
    assert told[0] == "1 of 3 captions have no concept: they come too"
    supervised = TrainConfig(objective=ObjectiveConfig(name="supervised"))
    with pytest.raises(ConfigError, match=r"needs a concept for every caption, 1 have none; set prompts\.balance"):
        check_gaps(source, supervised)
    check_gaps(source, TrainConfig())


def test_concepts_of_equally_many_captions_are_told_of_in_one_line() -> None:
    names, natural = ["fox", "dog", "wolf"], np.array([4, 4, 0])
    assert describe(names, natural, None) == ("captions of 2 concepts (1 more have none), 4 each",)
    assert describe(names, natural, np.array([1.0, 1.0, 0.0]))[1:] == ("each of 2 concepts gets 50.00% of the prompts",)


def test_targets_of_a_file_say_what_comes(tmp_path: Path) -> None:
    counts = tmp_path / "counts.tsv"
    counts.write_text("C0\t1\nc9\t3\nelsewhere\t5\n")
    told: list[str] = []
    path = _file(tmp_path, TAIL)
    config = PromptsConfig(source=str(path), balance="counts", balance_counts=str(counts))
    source = open_source(config, 0, told.append)
    drawn = Counter(source.concepts[concept] for concept in _drawn(source, range(4000)).tolist())
    assert drawn.keys() == {"c0", "c9"}
    assert abs(drawn["c0"] - 1000) <= 4
    stranger = "prompts.balance_counts: 1 of its concepts have no captions, and do not come: 'elsewhere'"
    assert stranger in told, "it may be misspelt"
    assert told[-1].endswith(
        "most of the prompts get 'c9' 75.00%, 'c0' 25.00%; fewest 'c0' 25.00%, 'c9' 75.00%; "
        "8 concepts that have captions never come"
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"balance": "uniform"},
            "needs the concepts of the captions, and those of .* have none; write CONCEPT<tab>CAPTION",
        ),
        ({"balance": "uniform", "concepts": "list"}, "no caption of .* names a concept of .*list"),
        ({"concepts": "list"}, "no caption of .* names a concept of .*list"),
    ],
)
def test_captions_that_cannot_be_balanced_are_refused_in_one_line(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "captions.txt").write_text("a fox\n")
    (tmp_path / "list").write_text("dog\n")
    if "concepts" in settings:
        settings = settings | {"concepts": str(tmp_path / "list")}
    with pytest.raises(ConfigError, match=words) as caught:
        open_source(PromptsConfig(source=str(tmp_path / "captions.txt"), **settings), 0)
    assert "\n" not in str(caught.value)


def test_captions_with_concepts_of_their_own_want_no_list(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("c0\n")
    with pytest.raises(ConfigError, match=r"prompts\.concepts finds the concepts of captions that have none"):
        _open(_file(tmp_path, TAIL), "uniform", concepts=str(tmp_path / "list"))


def test_targets_for_no_concept_of_the_captions_are_refused(tmp_path: Path) -> None:
    counts = tmp_path / "counts.tsv"
    counts.write_text("elsewhere\t5\nc1\t0\n")
    with pytest.raises(ConfigError, match="gives no share to any concept of the captions, such as 'c9'"):
        _open(_file(tmp_path, TAIL), "counts", balance_counts=str(counts))


def test_the_toy_world_is_balanced_already() -> None:
    with pytest.raises(ConfigError, match="there is nothing to balance"):
        open_source(PromptsConfig(balance="uniform"), 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"balance_count": 0}, r"prompts\.balance_count must be >= 1, got 0"),
        ({"balance": "counts"}, r"goes with prompts\.balance_counts"),
        ({"balance_counts": "x"}, r"goes with prompts\.balance_counts"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PromptsConfig(**settings)
