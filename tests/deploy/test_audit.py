"""`penstock audit`: words found in prompts, shares and ratios by hand, and a page that needs nothing else."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.deploy import audit
from penstock.deploy.audit_attributes import (
    FREE,
    SEVERAL,
    Value,
    is_toy_caption,
    of_concepts,
    of_toyworld,
    read_attributes,
)
from penstock.deploy.audit_images import accuracies
from penstock.deploy.audit_report import TRUSTED, doubts, findings
from penstock.deploy.audit_shares import FEW_GROUPS, AttributeShares, compare
from penstock.protocol.errors import ConfigError, PenstockError
from penstock.toyworld.captions import caption
from tests.deploy.recorded_run import RecordedGroup, RecordedLedger, paced_groups

# --- attributes -------------------------------------------------------------------------------------------------------


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "attributes.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_prompt_names_whole_words_of_one_value_the_longest_first(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "colour: {blue: [blue], light blue: [light blue, 'sky-blue'], pale: [light]}\n"
        "age:\n  child: [child, ENFANT]\n  adult:\n",
    )
    colour, age = read_attributes(path, ["a {} thing"])
    named = {prompt: colour.named_by(prompt, "") for prompt in ("a Light  BLUE sky", "blue", "blueish", "sky-blue")}
    assert named == {"a Light  BLUE sky": 1, "blue": 0, "blueish": FREE, "sky-blue": 1}
    assert colour.named_by("blue and light blue", "") == SEVERAL
    assert age.named_by("un enfant", "") == 0
    assert age.values[1] == Value("adult", ("adult",), ("a adult thing",))
    assert colour.values[1].texts == ("a light blue thing", "a sky-blue thing")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("- a", ": expected ATTRIBUTE: [VALUE, ...], got list"),
        ("a: b", ": a: expected a list of values, or VALUE: [WORD, ...], got 'b'"),
        ("a: [x]", ": a: needs 2 to 1000 values, got 1"),
        ("a: [x, no]", ": a: 'False': values and words must be text; put them in quotes"),
        ("a: {x: [u], y: [U]}", ": a: the word 'u' stands for 'x' and for 'y'"),
        ("a: [", ":1: not valid YAML: "),
    ],
)
def test_a_broken_list_of_attributes_is_one_line(text: str, what: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_attributes(path, ["{}"])
    assert str(caught.value).startswith(f"--attributes {path}{what}")
    assert "\n" not in str(caught.value)


def test_the_toy_worlds_captions_are_read_as_they_were_written() -> None:
    digit, ink, paper = of_toyworld()
    names = [
        [attribute.values[place].name if (place := attribute.named_by(text, "")) >= 0 else None]
        for text in (caption(7, "dark blue", "light green"), caption(0, paper="grey"))
        for attribute in (digit, ink, paper)
    ]
    assert names == [["seven"], ["dark blue"], ["light green"], ["zero"], [None], ["grey"]]
    assert is_toy_caption(caption(3, ink="brown"))
    assert not is_toy_caption("a handwritten letter")


def test_concepts_answer_by_the_ledger_and_not_by_words() -> None:
    concept = of_concepts(["red_fox", "dog"], ["a {}"])
    assert concept.named_by("a dog", "red_fox") == 0
    assert concept.named_by("a dog", "") == FREE
    assert concept.values[0].texts == ("a red fox",)


# --- shares -----------------------------------------------------------------------------------------------------------


def shares(sampled: Sequence[int], shown: NDArray[np.float64]) -> AttributeShares:
    codes = np.array(sampled, np.int16)
    counts = np.bincount(codes[codes >= 0], minlength=2)
    return compare("ink", ("black", "red"), codes, counts, 3 * counts, codes, shown, seed=0)


def test_shares_and_ratios_are_those_of_a_hand_calculation() -> None:
    # 30 groups ask for black and show it wholly, 10 ask for red and show it in a quarter of their images.
    sampled = [0] * 30 + [1] * 10 + [FREE] * 20 + [SEVERAL] * 2
    shown = np.array([[1, 0]] * 30 + [[0.75, 0.25]] * 10 + [[0.5, 0.5]] * 20 + [[1, 0]] * 2)
    found = shares(sampled, shown)
    black, red = found.values
    assert (found.naming_groups, found.free_groups, found.several_groups) == (40, 20, 2)
    assert (red.prompt_groups, red.prompt_uses, red.prompt_share) == (10, 30, 0.25)
    assert red.image_share.value == pytest.approx(2.5 / 40)
    assert red.ratio.value == pytest.approx(0.25)
    assert black.ratio.value == pytest.approx(37.5 / 30)
    assert (black.agreement.value, red.agreement.value) == (1.0, 0.25)
    # Wilson's upper limit of 30 of 30 is 1, its lower n / (n + z²).
    assert black.agreement.low == pytest.approx(30 / (30 + 1.959964**2))
    assert found.agreement.value == pytest.approx(32.5 / 40)
    assert red.free_share.value == 0.5
    assert (black.verdict, red.verdict) == ("over", "under")
    # Each resample has the same quarter among those that ask for red.
    assert red.ratio.low == red.ratio.high == 0.25


def test_the_interval_of_a_share_is_that_of_a_mean_over_groups() -> None:
    rng = np.random.default_rng(3)
    sampled = rng.integers(0, 2, 400)
    reds = rng.random(400)
    red = shares(sampled.tolist(), np.stack([1 - reds, reds], 1)).values[1]
    half = 1.96 * reds.std(ddof=1) / 20
    assert red.image_share.low == pytest.approx(reds.mean() - half, abs=0.006)
    assert red.image_share.high == pytest.approx(reds.mean() + half, abs=0.006)


def test_few_groups_get_no_verdict_and_none_no_figure() -> None:
    found = shares([0] * 40 + [1] * (FEW_GROUPS - 1), np.array([[1.0, 0.0]] * (40 + FEW_GROUPS - 1)))
    assert [value.verdict for value in found.values] == ["over", "too few"]
    nothing = shares([FREE] * 3, np.array([[1.0, 0.0]] * 3))
    assert nothing.values[0].image_share.value is None
    assert nothing.values[0].free_share.value == 1.0
    assert nothing.values[0].verdict == "too few"


# --- the verb ---------------------------------------------------------------------------------------------------------


class FakeScorer:
    """Sees what stands at the beginning of an image: its first pixel's red says the digit, its ink is always black."""

    digest = "ab" * 32

    def load(self) -> None:
        """It has no weights."""

    def score_each(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        digits = images[:, 0, 0, 0] % 10
        words = [caption(digit) for digit in range(10)]
        return np.array(
            [
                [prompt.startswith(words[digit]) + 2.0 * ("black ink" in prompt) for prompt in prompts]
                for digit in digits
            ],
            np.float32,
        )


@pytest.fixture(scope="module")
def groups() -> list[RecordedGroup]:
    return paced_groups(60)


@pytest.fixture
def run(groups: list[RecordedGroup], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    ledger = RecordedLedger(groups, [[0, 1], [0, 3]])
    monkeypatch.setattr(audit, "open_ledger", lambda run_dir: ledger)
    monkeypatch.setattr("penstock.producer.scorer.open_scorer", lambda name, device, dtype: FakeScorer())
    return tmp_path / "run"


class Tags(HTMLParser):
    """Notes every tag's name, and what its attributes name elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_toy_run_gives_a_table_a_json_and_a_page_without_anything_from_elsewhere(
    run: Path, groups: list[RecordedGroup], capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main([str(run), "--groups", "40"]) == 0
    table = capsys.readouterr().out
    assert "digit: 60 groups name it, 0 leave it open" in table
    told = json.loads((run / "audit" / "audit.json").read_text())
    assert (told["num_groups"], told["num_uses"], told["num_images"], told["matching"]) == (60, 4, 120, 40)
    assert [attribute["name"] for attribute in told["attributes"]] == ["digit", "ink", "paper"]
    black = next(value for value in told["attributes"][1]["values"] if value["name"] == "black")
    assert black["free_share"]["value"] == 1.0
    assert told["skipped"] == {"evaluation": "the run has no encoder yet"}
    page = (run / "audit" / "audit.html").read_text()
    assert set(re.findall(r"var\(--(\w+)\)", page)) <= set(re.findall(r"--(\w+):", page)), "a colour of no name"
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.names
    assert tags.sources
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    assert "url(" not in page
    assert "@import" not in page


def test_tables_fit_the_terminal_and_show_no_image_that_the_scorer_misreads(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(
        audit, "_scorer_accuracy", lambda attributes, scorer: {"digit": 0.9, "ink": 0.9, "paper": TRUSTED - 0.01}
    )
    audit.main([str(run), "--groups", "60"])
    tables = capsys.readouterr().out.partition("\npage ")[0]
    assert max(map(len, tables.splitlines())) <= 80
    assert "…" not in tables, "no figure is cut"
    ink, paper = tables.partition("paper: ")[::2]
    assert re.search(r"^ *\(\d\.\d\d-\d\.\d\d\)", ink, re.MULTILINE), "intervals stand below their ratios"
    assert "ratio" not in paper


def test_labelled_images_or_an_encoder_of_no_use_are_refused_before_any_image_is_made(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "open_remaker", None)
    (run / "encoder").mkdir(parents=True)
    (run / "encoder" / "config.json").write_text("{}")
    with pytest.raises(PenstockError, match="cannot be loaded as an encoder"):
        audit.main([str(run), "--data", "toyworld"])


def test_prompts_alone_need_nothing_made_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "open_remaker", None)
    assert audit.main([str(run), "--groups", "0"]) == 0
    told = json.loads((run / "audit" / "audit.json").read_text())
    assert told["num_images"] == 0
    assert told["skipped"]["images"] == "--groups 0"
    assert told["attributes"][0]["values"][0]["image_share"] == {"value": None, "low": None, "high": None}


def test_words_from_prompts_and_runs_are_text_on_the_page(
    run: Path, groups: list[RecordedGroup], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evil = [replace(group, concept="<b>&x</b>" if number % 2 else "plain") for number, group in enumerate(groups)]
    evil = [replace(group, recipe=replace(group.recipe, prompt="<script>alert(1)</script>")) for group in evil]
    monkeypatch.setattr(audit, "open_ledger", lambda run_dir: RecordedLedger(evil, [[0]]))
    audit.main([str(run), "--groups", "6", "--scorer", "some"])
    page = (run / "audit" / "audit.html").read_text()
    assert "<script>" not in page
    assert "&lt;b&gt;&amp;x&lt;/b&gt;" in page


def test_what_stands_out_is_said_in_sentences(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = []
    monkeypatch.setattr(audit, "draw_table", lambda report, width: reports.append(report) or "")
    monkeypatch.setattr(audit, "_scorer_accuracy", lambda attributes, scorer: {"digit": 0.5, "ink": 0.9})
    audit.main([str(run), "--groups", "60"])
    said = list(findings(reports[0]))
    start = "ink: where prompts leave it open, 100% ("
    assert any(sentence.startswith(start) for sentence in said)
    # Its word on digits is not taken: it misreads half of those that are known.
    assert not any(sentence.startswith("digit") for sentence in said)
    assert next(iter(doubts(reports[0]))).startswith(
        "digit: the scorer reads 50% of known images rightly; what it sees"
    )


def test_a_scorer_is_checked_on_images_of_which_everything_is_known() -> None:
    attributes = of_toyworld()
    images = np.zeros((4, 2, 2, 3), np.uint8)
    images[:, 0, 0, 0] = [3, 3, 7, 9]
    truth = [np.array([3, 3, 7, 8]), np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0])]
    assert accuracies(images, truth, attributes, FakeScorer())[:2] == [0.75, 0.5]


def test_a_run_without_concepts_wants_to_be_told_what_to_look_for(
    run: Path, groups: list[RecordedGroup], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [replace(group, concept="", recipe=replace(group.recipe, prompt="a fox")) for group in groups]
    monkeypatch.setattr(audit, "open_ledger", lambda run_dir: RecordedLedger(plain, [[0]]))
    with pytest.raises(ConfigError, match="has no concepts; say what to look for with --attributes"):
        audit.main([str(run)])


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--groups", "-1"], "--groups must be >= 0, got -1"),
        (["--template", "a"], "--template must hold {} exactly once, got 'a'"),
        (["--groupes", "1"], "unrecognized arguments: --groupes 1 (see penstock audit --help)"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], error: str, run: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        audit.main([str(run), *argv])
    assert str(caught.value) == error
