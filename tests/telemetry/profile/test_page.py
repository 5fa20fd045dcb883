"""One file for people: it holds what it shows, and shows nothing that it was not given."""

import re
from html.parser import HTMLParser

import pytest

from penstock.telemetry.profile.figures import PALETTE
from penstock.telemetry.profile.measurements import Measurements
from penstock.telemetry.profile.page import draw_page
from penstock.telemetry.profile.summary import analyse
from penstock.telemetry.profile.text import box
from tests.telemetry.profile.measured import measured, producer, together

VOID = {"meta", "br", "link"}


class Reader(HTMLParser):
    """Text, identifiers and addresses of a page; raises AssertionError where tags do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(measurements: Measurements) -> tuple[Reader, str]:
    page = draw_page(analyse(measurements))
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader, page


@pytest.fixture(scope="module")
def drawn() -> tuple[Reader, str]:
    """The page of the usual measurements. Drawing one takes a second."""
    return read(measured())


def test_the_first_screen_answers_and_the_rest_shows_what_that_rests_on(drawn: tuple[Reader, str]) -> None:
    reader, page = drawn
    summary = analyse(measured())
    first = reader.text.partition("What each part could do")[0]
    assert "producer-bound" in first
    assert summary.next_step.text in first
    assert summary.verdict.evidence in first
    assert "Confidence high, 99%" in first
    titles = [
        *("Rates of each phase", "Where a step's time goes", "Queues over time", "The fleet, and stragglers"),
        *("Age and reuse", "What went wrong", "Conditions, and how to measure this again"),
    ]
    places = [reader.text.index(title) for title in titles]
    assert places == sorted(places)
    assert "5 producers are enough, 5 for each rank." in reader.text
    assert measured().command in reader.text
    assert "first step" in reader.text
    assert page.count("<svg") == 2 * 6  # each figure for wide and for narrow screens


def test_the_page_needs_nothing_from_elsewhere(drawn: tuple[Reader, str]) -> None:
    reader, page = drawn
    assert all(address.startswith("#") for address in reader.addresses)
    assert set(re.findall(r"https?://[^\"' <)]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "<script" not in page
    assert "@import" not in page


def test_figures_take_their_colours_from_the_page_and_their_identifiers_are_their_own(
    drawn: tuple[Reader, str],
) -> None:
    reader, page = drawn
    assert [colour for colour, number in PALETTE.items() if number in page] == []
    assert len(reader.ids) == len(set(reader.ids))
    assert {address[1:] for address in reader.addresses} <= set(reader.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(reader.ids)


def test_names_are_text_and_stragglers_are_named() -> None:
    name = "<script>alert(1)</script> $x$"
    fleet = (producer("a", 100.0), producer("b", 100.0), producer(name, 60.0))
    reader, page = read(measured(producers=fleet, run_id="<b>"))
    assert "<script" not in page
    assert f"Producer {name} made 60.0 images/s into the sink, the others 100 images/s at the median." in reader.text
    assert page.count('<tr class="slow">') == 1


@pytest.mark.parametrize(
    "changes", [{"trainer": None, "together": None, "ranks": (), "services": ()}, {"producers": ()}]
)
def test_what_was_not_measured_is_missing_and_nothing_else(changes: dict[str, object]) -> None:
    reader, _ = read(measured(**changes))
    assert "Conditions, and how to measure this again" in reader.text


def test_a_contradiction_stands_in_the_first_screen_and_no_gain_is_promised() -> None:
    summary = analyse(measured(together=together(398.0, 199.0, 0.001)))
    reader, page = read(summary.measurements)
    assert summary.verdict.contradiction is not None
    assert summary.verdict.contradiction in reader.text
    assert 'class="gain"' not in page


def test_conditions_that_bend_the_rates_stand_in_the_first_screen_and_no_gain_is_promised() -> None:
    reader, page = read(measured(left=("<b>ann</b>",)))
    first = reader.text.partition("What each part could do")[0]
    assert "Producer <b>ann</b> left while it was measured: the rates are of no one fleet." in first
    assert 'class="gain"' not in page
    assert "What other numbers of producers would bring" not in reader.text


@pytest.mark.parametrize("width", [40, 60, 96])
def test_the_box_is_no_wider_than_it_may_be(width: int) -> None:
    lines = box(analyse(measured()), width).splitlines()
    assert {len(line) for line in lines} == {width}
    text = " ".join(" ".join(lines).replace("│", " ").split())
    assert "PRODUCER-BOUND" in text
    assert "Enough 5 producers, 5 for each rank" in text
