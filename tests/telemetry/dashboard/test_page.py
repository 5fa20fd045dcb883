"""The page in a real browser: what a researcher sees and does, on wide screens and narrow ones, by day and by night."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from penstock.config.address import Address
from penstock.telemetry.dashboard.board import MAX_LISTENERS
from penstock.telemetry.dashboard.server import Dashboard
from penstock.telemetry.run_view import EventView
from tests.browser import NARROW, WIDE, Opened, chromium
from tests.telemetry.dashboard.listeners import Listener
from tests.telemetry.views import FakeRun, group, producer, run_view

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = """<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>'"&amp;"""
CONTRAST = 4.5
"""WCAG 2.2, 1.4.3: of text against what is behind it."""


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as found:
        yield found


class Scene:
    """A fake run, its server, and pages that are open on it."""

    def __init__(self, browser: "Browser", stack: ExitStack) -> None:
        self.run = FakeRun(run_view(340))
        self.server = Dashboard(Address("127.0.0.1", 0), every_s=0.05, group_every_s=0.1)
        stack.callback(lambda: self.server.close())
        self.server.show(self.run)
        self._browser, self._stack = browser, stack

    def open(self, size: tuple[int, int] = WIDE, scheme: str = "dark", motion: str = "reduce") -> Opened:
        opened = Opened(self._browser, self.server.url, size, scheme, motion)
        self._stack.callback(opened.context.close)
        return opened

    def come(self, step: int, **changes: Any) -> None:
        """The run has come so far; its newest groups are others."""
        self.run.now = run_view(step, **changes)

    def again(self, **changes: Any) -> None:
        """The trainer is started again at the same port."""
        self.server = Dashboard(self.server.address, every_s=0.05, group_every_s=0.1)
        self.server.show(FakeRun(run_view(**changes)))


@pytest.fixture
def scene(browser: "Browser") -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(browser, stack)


def shows(index: int) -> str:
    """That a group stands large on the page."""
    return f"document.querySelector('#newest').dataset.index === '{index}'"


LOADED = "[...document.images].length > 8 && [...document.images].every((image) => image.naturalWidth > 0)"
DRAWN = "document.querySelectorAll('figure.drawn canvas').length === 4"


def painted(opened: Opened, chart: str, color: str) -> int:
    """Pixels of a chart's canvas that have the colour of a variable of the style sheet."""
    return int(
        opened.page.evaluate(
            """([chart, color]) => {
              const canvas = document.querySelector(`#chart-${chart} canvas`);
              const style = getComputedStyle(document.documentElement).getPropertyValue(`--${color}`).trim();
              const wanted = [1, 3, 5].map((at) => parseInt(style.slice(at, at + 2), 16));
              const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
              let count = 0;
              for (let at = 0; at < data.length; at += 4) {
                if (data[at + 3] > 200 && wanted.every((value, i) => Math.abs(data[at + i] - value) < 12)) count += 1;
              }
              return count;
            }""",
            [chart, color],
        )
    )


def test_the_newest_groups_stand_under_their_prompts_and_change(scene: Scene) -> None:
    opened = scene.open()
    opened.wait(shows(340))
    opened.wait(LOADED)
    page = opened.page
    assert page.locator("#newest h3").inner_text() == "a photo of a red fox asleep in fresh snow, seen from above"
    assert page.locator("#newest img").count() == 8
    assert page.locator("#earlier li").count() == 3
    first = page.locator("#newest img").first.get_attribute("src")
    scene.come(341)
    opened.wait(shows(341))
    assert page.locator("#newest img").first.get_attribute("src") != first
    assert page.locator("#newest h3").inner_text() == "a lighthouse on a cliff at dusk, long exposure"
    assert page.locator("#earlier .prompt").first.inner_text().startswith("a photo of a red fox")
    assert opened.errors == []


def test_the_newest_group_is_large_and_first(scene: Scene) -> None:
    opened = scene.open()
    opened.wait(LOADED)
    large = opened.page.locator("#newest img").first.bounding_box()
    small = opened.page.locator("#earlier img").first.bounding_box()
    assert large is not None
    assert small is not None
    assert large["width"] > 4 * small["width"]
    assert large["y"] + large["height"] < WIDE[1] / 2


def test_groups_of_any_number_of_images_find_room(scene: Scene) -> None:
    opened = scene.open()
    for place, num_images in enumerate((1, 2, 3, 4, 6, 10, 16)):
        newest = 400 + 3 * place
        scene.come(3, groups=[group(newest - before, num_images, side=48) for before in range(3)])
        opened.wait(shows(newest))
        assert opened.page.locator("#newest img").count() == min(12, num_images)
        told = opened.page.locator("#newest .facts").inner_text()
        assert ("4 more not shown" in told) == (num_images == 16)
        for size, highest in ((WIDE, 560), (NARROW, 900)):
            opened.page.set_viewport_size({"width": size[0], "height": size[1]})
            box = opened.page.locator(".gallery").bounding_box()
            assert box is not None
            assert box["height"] < highest, (num_images, size)


def test_the_picture_can_be_held_and_let_go_by_mouse_and_keys(scene: Scene) -> None:
    opened = scene.open()
    page = opened.page
    opened.wait(shows(340))
    page.keyboard.press("Space")
    scene.come(341)
    page.get_by_text("held; 1 newer group waiting").wait_for()
    assert page.locator("#newest").get_attribute("data-index") == "340"
    assert page.locator("#hold").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    opened.wait(shows(341))
    page.locator("#earlier button").nth(2).click()  # 340 and 339 stand before it
    opened.wait(shows(338))
    page.get_by_role("button", name="Show the newest").click()
    opened.wait(shows(341))
    assert page.locator("#hold").get_attribute("aria-pressed") == "false"


def test_all_curves_are_drawn_and_show_what_is_under_the_pointer(scene: Scene) -> None:
    opened = scene.open()
    opened.wait("document.querySelectorAll('#chart-loss canvas, #chart-knn canvas').length === 2")
    for step in range(341, 360):
        scene.come(step)
        opened.wait(f"document.querySelector('#step').textContent === '{step}'")
    opened.wait(DRAWN)
    lines = {"loss": ["water"], "knn": ["copper", "moss"], "rates": ["water", "copper"], "wait": ["alarm"]}
    for chart, color in ((chart, color) for chart, colors in lines.items() for color in colors):
        assert painted(opened, chart, color) > 60, (chart, color)
    plot = opened.page.locator("#chart-knn .u-over")
    assert opened.page.locator("#chart-knn .place").inner_text() == ""
    last = opened.page.locator("#chart-knn .reading b").first.inner_text()
    assert last == "83.4%"  # 0.9 - 0.68 exp(-350 / 150): it was measured last at step 350
    box = plot.bounding_box()
    assert box is not None
    plot.hover(position={"x": 3, "y": box["height"] / 2})
    assert opened.page.locator("#chart-knn .place").inner_text() == "at step 0"
    assert opened.page.locator("#chart-knn .reading b").first.inner_text() == "22.0%"
    assert opened.errors == []


def test_the_pipeline_shows_how_full_every_place_is_and_what_bounds_the_run(scene: Scene) -> None:
    opened = scene.open()
    page = opened.page
    reservoir = page.locator("[data-name=reservoir]")
    assert reservoir.locator("b").inner_text() == "231 / 256"
    assert [name.split("\n")[0] for name in page.locator(".station h3").all_inner_texts()] == [
        *("Tickets", "Producers", "Arrived", "Reservoir", "Batch", "Trainer")
    ]

    def fill(name: str) -> float:
        """How much of a tank is under water, as it is drawn."""
        tank, level = page.locator(f"[data-name={name}]"), page.locator(f"[data-name={name}] .level")
        outer, inner = tank.bounding_box(), level.bounding_box()
        assert outer is not None
        assert inner is not None
        return 1 - (inner["y"] - outer["y"]) / outer["height"]

    assert fill("reservoir") == pytest.approx(231 / 256, abs=0.03)
    assert fill("arrived") == pytest.approx(3 / 32, abs=0.03)
    assert page.locator("#verdict-side").inner_text() == "Balanced"
    assert page.locator(".station.bound").count() == 0
    verdict = type(scene.run.now.verdict)("producers", "The trainer waits 31% of its time.", "Add producers.")
    scene.come(341, verdict=verdict)
    page.get_by_text("Producer-bound").wait_for()
    assert page.locator(".station.bound h3").all_inner_texts() == ["Producers"]
    assert "The trainer waits 31% of its time." in page.locator("#verdict").inner_text()
    assert "Add producers." in page.locator("#verdict").inner_text()


def test_stages_stand_by_their_share_and_an_age_is_no_work(scene: Scene) -> None:
    stage = type(scene.run.now.stages["step"])
    stages = {
        "forward": stage(share=0.3, p50_s=0.052, p95_s=0.06, p99_s=0.07),
        "sample_age": stage(share=1.0, p50_s=163.0, p95_s=240.0, p99_s=250.0),
        "step": stage(share=0.6, p50_s=0.167, p95_s=1.21, p99_s=2.0),
    }
    scene.come(341, stages=stages)
    opened = scene.open()
    opened.wait("document.querySelectorAll('#stages li').length === 3")
    rows = opened.page.locator("#stages li")
    shown = [" ".join(text.split()) for text in rows.all_inner_texts()]
    assert shown == ["step 60% 167 ms / 1.2 s", "forward 30% 52 ms / 60 ms", "images' age when used 2:43 / 4:00"]
    bars = [rows.nth(place).locator(".bar").evaluate("bar => getComputedStyle(bar).backgroundSize") for place in (0, 1)]
    assert bars == ["100% 100%", "50% 100%"]


def test_a_lost_producers_row_goes_red_and_to_the_top(scene: Scene) -> None:
    opened = scene.open()
    rows = opened.page.locator("#fleet tr")
    opened.wait("document.querySelectorAll('#fleet tr').length === 2")
    assert rows.locator("th").all_inner_texts() == ["producer-0", "producer-1"]
    calm = rows.nth(1).evaluate("row => getComputedStyle(row.children[0]).color")
    scene.come(341, producers=[producer("producer-0"), producer("producer-1", "gone", images_per_s=0.0, silent_s=12.0)])
    opened.wait("document.querySelector('#fleet tr').dataset.state === 'gone'")
    assert rows.locator("th").all_inner_texts() == ["producer-1", "producer-0"]
    red, green, blue = channels(rows.first.evaluate("row => getComputedStyle(row.children[0]).color"))
    assert red > green + 60
    assert red > blue + 60
    assert rows.nth(1).evaluate("row => getComputedStyle(row.children[0]).color") == calm
    assert opened.page.locator("#fleet-note").inner_text() == "1 gone · 1 ready"
    assert "1 lost" in opened.page.locator("[data-name=producers]").inner_text()


def test_what_others_write_is_shown_as_text(scene: Scene) -> None:
    scene.come(
        9,
        groups=[group(9, prompt=HOSTILE), group(8, prompt=HOSTILE)],
        producers=[producer(HOSTILE)],
        events=[EventView(at=0.0, is_warning=True, text=HOSTILE)],
        rejects={HOSTILE: 2},
        run_dir=HOSTILE,
        state="stalled",
        waiting_for=HOSTILE,
    )
    opened = scene.open()
    opened.wait(shows(9))
    page = opened.page
    for place in ("#newest h3", "#earlier .prompt", "#fleet th", "#events span", "#run-dir"):
        assert page.locator(place).first.inner_text() == HOSTILE
    assert page.locator("#notice").inner_text() == f"Nothing goes on: {HOSTILE}"
    assert page.locator("main script, main img[src=x], #notice *").count() == 0
    assert "owned" not in page.title()
    assert opened.errors == []


@pytest.mark.parametrize("size", [NARROW, (320, 700), (768, 1024), (1100, 700), (2560, 1300)])
def test_nothing_runs_out_of_any_screen(scene: Scene, size: tuple[int, int]) -> None:
    fleet = [producer(f"a-producer-with-a-long-name-of-a-host.cluster.example-{n}") for n in range(30)]
    prompt = "Donaudampfschifffahrtsgesellschaft" * 8
    groups = [group(n, prompt=prompt) for n in (340, 339)]
    scene.come(340, producers=fleet, groups=groups, run_dir="runs/" + "long/" * 30)
    opened = scene.open(size)
    opened.wait(shows(340))
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    beyond = """[...document.querySelectorAll(
          "main > *, main > * > *, .top > *, .station, #newest *, #earlier *")]
        .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
        .map((node) => node.outerHTML.slice(0, 80))"""
    assert opened.page.evaluate(beyond) == []


def channels(color: str) -> Sequence[float]:
    """Of `rgb(r, g, b)` as a browser writes it."""
    return [float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]]


def luminance(color: str) -> float:
    """Relative luminance, WCAG 2.2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in channels(color))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_every_text_can_be_read_by_day_and_by_night(scene: Scene, scheme: str) -> None:
    scene.come(340, producers=[producer(state, state) for state in ("gone", "suspect", "warming", "ready")])
    opened = scene.open(scheme=scheme)
    opened.wait(shows(340))
    opened.wait("document.querySelectorAll('#fleet tr').length === 4")
    page_is_dark = luminance(opened.page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.5
    assert page_is_dark == (scheme == "dark")
    texts: list[tuple[str, str, list[str]]] = opened.page.evaluate(
        """() => [...document.querySelectorAll("body *")]
          .filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
          .filter((node) => node.checkVisibility() && node.getBoundingClientRect().left >= 0)
          .map((node) => {
            const behind = [];
            for (let at = node; at; at = at.parentElement) behind.push(getComputedStyle(at).backgroundColor);
            return [node.outerHTML.slice(0, 90), getComputedStyle(node).color, behind];
          })"""
    )
    assert len(texts) > 80
    for shown, color, behind in texts:
        ground = next(part for part in behind if part.startswith("rgb("))  # washes over it are faint
        assert contrast(color, ground) >= CONTRAST, (shown, color, ground)


def test_colours_follow_the_system_or_the_readers_choice(scene: Scene) -> None:
    opened = scene.open(scheme="light")
    opened.wait("document.querySelectorAll('#chart-loss canvas').length === 1")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = opened.page.evaluate(ground)
    by_day = painted(opened, "loss", "water")
    opened.page.keyboard.press("t")
    assert opened.page.evaluate(ground) == light
    opened.page.keyboard.press("t")
    dark = opened.page.evaluate(ground)
    assert luminance(dark) < 0.05 < luminance(light)
    assert painted(opened, "loss", "water") == pytest.approx(by_day, rel=0.3)  # drawn anew in the colour of the night
    opened.page.reload()
    opened.wait("document.documentElement.dataset.theme === 'dark'")
    opened.page.get_by_role("button", name="Colours: dark").click()
    opened.page.emulate_media(color_scheme="dark")
    assert opened.page.evaluate(ground) == dark


def test_a_screen_reader_hears_what_has_changed_and_not_every_figure(scene: Scene) -> None:
    verdict = type(scene.run.now.verdict)
    stalled: dict[str, Any] = {"state": "stalled", "verdict": verdict("balanced", "It waits 3.1%.", "Wait.")}
    scene.come(340, waiting_for="ticket 12, held by producer-1 for 6.0 s", **stalled)
    opened = scene.open()
    opened.page.get_by_text("for 6.0 s").wait_for()
    opened.page.evaluate(
        """() => {
          window.heard = [];
          const watch = new MutationObserver((seen) => seen.forEach((one) => heard.push(one.target.textContent)));
          for (const live of document.querySelectorAll("[aria-live], [role=status], [role=alert]")) {
            watch.observe(live, { subtree: true, childList: true, characterData: true });
          }
        }"""
    )
    stalled["verdict"] = verdict("balanced", "It waits 3.2%.", "Wait.")
    scene.come(341, waiting_for="ticket 12, held by producer-1 for 7.0 s", **stalled)
    opened.page.get_by_text("for 7.0 s").wait_for()
    opened.page.get_by_text("It waits 3.2%.").wait_for()
    assert opened.page.evaluate("heard") == []
    scene.come(342, verdict=verdict("producers", "It waits 31%.", "Add producers."))
    opened.page.get_by_text("It waits 31%.").wait_for()
    assert sorted(opened.page.evaluate("heard")) == ["Producer-bound", "running"]


def test_a_group_is_called_by_its_prompt(scene: Scene) -> None:
    scene.come(3, groups=[group(3), group(2, prompt=""), group(1, prompt="a heron")])
    opened = scene.open()
    opened.wait(shows(3))
    for name in ("(an empty prompt)", "a heron"):
        opened.page.get_by_role("button", name=name, exact=True).wait_for()
    assert opened.page.get_by_role("img", name="image 2 of 8", exact=True).count() == 1


def test_nothing_moves_for_those_who_want_it_still(scene: Scene) -> None:
    moving = "document.getAnimations().filter((one) => one.playState === 'running').length"
    still, lively = scene.open(motion="reduce"), scene.open(motion="no-preference")
    for opened in (still, lively):
        opened.wait(LOADED)
    lively.wait(f"{moving} > 0")
    assert still.page.evaluate(moving) == 0


def test_the_page_reaches_nothing_but_its_own_server(scene: Scene) -> None:
    opened = scene.open()
    opened.wait(LOADED)
    assert len(opened.requests) > 5
    own = scene.server.address.url
    assert [url for url in opened.requests if not url.startswith((f"{own}/", "data:image/"))] == []
    assert opened.errors == []


def test_a_run_that_waits_or_stalls_says_what_for(scene: Scene) -> None:
    waits = "waiting for the first producer"
    nothing: dict[str, Any] = dict.fromkeys(("groups", "loss", "knn", "rankme", "producers", "queues"), ())
    scene.come(0, state="waiting", waiting_for=waits, stages={}, **nothing)
    opened = scene.open()
    opened.page.get_by_text(f"Waiting: {waits}").wait_for()
    assert opened.page.locator("#newest").inner_text() == "Waiting for the first group."
    assert opened.page.locator("#fleet-note").inner_text() == "Nobody has come yet."
    scene.come(20, state="stalled", waiting_for="ticket 12, held by producer-1")
    opened.page.get_by_text("Nothing goes on: ticket 12, held by producer-1").wait_for()
    assert opened.page.locator("#state").inner_text() == "stalled"
    scene.come(21)
    opened.page.locator("#notice").wait_for(state="hidden")
    assert opened.errors == []


def test_the_end_is_said_and_what_was_seen_stays(scene: Scene) -> None:
    opened = scene.open()
    opened.wait(LOADED)
    scene.server.close("the loss is no number")
    opened.page.get_by_text("The run is over: the loss is no number").wait_for()
    assert opened.page.locator("#state").inner_text() == "ended"
    assert opened.page.evaluate(LOADED)
    assert opened.page.locator("#step").inner_text() == "340"


def test_when_the_trainer_is_started_again_the_page_goes_on_with_it(scene: Scene) -> None:
    opened = scene.open()
    opened.wait(LOADED)
    scene.server.close()
    opened.page.get_by_text("The run is over.").wait_for()
    scene.again(step=12, run_id="another-life")
    opened.page.get_by_text("another-life").wait_for()
    opened.wait(shows(12))
    assert opened.page.locator("#state").inner_text() == "running"
    assert opened.page.locator("#notice").is_hidden()
    assert opened.page.locator("#earlier li").count() == 3  # none of the life before
    assert opened.errors == []


def test_who_comes_when_too_many_pages_are_open_is_told_so(scene: Scene) -> None:
    pages = [Listener(scene.server.address.port) for _ in range(MAX_LISTENERS)]
    for page in pages:
        page.until("figures")
    opened = scene.open()
    opened.page.get_by_text("Too many pages are open already; close one.").wait_for()
    for page in pages:
        page.close()
    opened.wait(shows(340))
    assert opened.page.locator("#notice").is_hidden()
