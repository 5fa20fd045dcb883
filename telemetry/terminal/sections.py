"""The parts of the picture of a run: each makes a block of lines of a given width."""

import time
from collections import Counter
from collections.abc import Sequence

from rich.text import Text

from penstock.telemetry.progress import human
from penstock.telemetry.run_view import EventView, ProducerView, QueueView, RunView
from penstock.telemetry.summary import FED_FRACTION, STARVED_FRACTION
from penstock.telemetry.terminal.cells import (
    BAD,
    CAREFUL,
    DIM,
    FULL,
    GOOD,
    PROMISED,
    STRONG,
    TITLE,
    Block,
    bar,
    beside,
    box,
    clock,
    ends,
    fit,
    line,
    nbytes,
    seconds,
)
from penstock.telemetry.terminal.curve import draw

_RUN_STYLES = {"waiting": f"{CAREFUL} bold", "running": f"{GOOD} bold", "stalled": "bold reverse red", "ended": STRONG}
_PRODUCER_STATES = {
    "ready": ("●", GOOD),
    "warming": ("◐", "cyan"),
    "suspect": ("▲", CAREFUL),
    "stalled": ("■", BAD),
    "draining": ("▽", "magenta"),
    "gone": ("✕", BAD),
}
_HEADLINES = {
    "producers": ("PRODUCER-BOUND", CAREFUL),
    "wire": ("WIRE-BOUND", CAREFUL),
    "host": ("HOST-BOUND", CAREFUL),
    "trainer": ("TRAINER-BOUND", GOOD),
    "balanced": ("BALANCED", GOOD),
    "not enough data": ("NO VERDICT YET", DIM),
}
_BOUND = {"producers": "producers", "wire": "stream", "host": "trainer", "trainer": "trainer"}
"""Which box of the pipeline bounds the run, by verdict."""
_FIGURES_WIDTH = 40
"""Cells of a producer's figures."""
_LEAST_DEVICE = 8
"""Cells below which a producer's device is left out."""
_STAGES = (
    *("receive", "wait_groups", "collate", "copy"),
    *("wait_batch", "step", "augment", "forward", "backward", "optimizer", "evaluate", "checkpoint", "report"),
)
"""In the order of the data's way."""


def header(view: RunView, width: int) -> Block:
    """Which run it is, how it is, and how far."""
    rank = f" rank {view.rank} of {view.world_size} " if view.world_size > 1 else ""
    left = line(("penstock ", TITLE), (f" {view.run_dir} ", STRONG), (f" {view.objective}", DIM), (rank, DIM))
    right = line((f" {view.state} ", _RUN_STYLES.get(view.state, STRONG)))
    share = min(1.0, view.step / view.max_steps) if view.max_steps else 0.0
    before = line("step ", (f"{view.step}", STRONG), f"/{view.max_steps}  ")
    left_s = (view.max_steps - view.step) / view.steps_per_s if view.steps_per_s else None
    times = f"{clock(view.seconds)} so far" + (f", {clock(left_s)} left" if left_s and view.state == "running" else "")
    after = line(f"  {share:.0%}", ("  " + times, DIM))
    progress = bar(max(4, width - before.cell_len - after.cell_len), (share, FULL, "cyan"))
    return [ends(left, right, width), fit(before.append_text(progress).append_text(after), width)]


def pipeline(view: RunView, width: int, rows: int) -> Block:
    """The data's way as four boxes: what is made, what is under way, what is kept, what is trained on."""
    wide = (width - 3 * 3) // 4
    widths = [wide, wide, wide, width - 3 * (wide + 3)]
    bound = _BOUND.get(view.verdict.side) if view.state == "running" else None
    bound_style = f"bold {_HEADLINES.get(view.verdict.side, ('', CAREFUL))[1]}"
    contents = {
        "producers": _producers(view, wide - 4),
        "stream": _stream(view, wide - 4),
        "reservoir": _reservoir(view, wide - 4),
        "trainer": _trainer(view, wide - 4),
    }
    arrow = [line(("━━▶" if row == (rows + 1) // 2 else "   ", "cyan")) for row in range(rows + 2)]
    block: Block = []
    done = 0
    for (name, lines), box_width in zip(contents.items(), widths, strict=True):
        framed = box(name, lines[:rows], box_width, bound_style if name == bound else DIM)
        if not block:
            block, done = framed, box_width
            continue
        block = beside(block, beside(arrow, framed, 3, 0, 3 + box_width), done, 0, done + 3 + box_width)
        done += 3 + box_width
    return block


def _producers(view: RunView, width: int) -> Block:
    here = [producer for producer in view.producers if producer.state != "gone"]
    ready = sum(producer.state == "ready" for producer in here)
    busy = [producer.busy_share for producer in here if producer.busy_share is not None]
    made = f"{human(view.images_made)} images"
    return [
        _rate(view.made_per_s, width),
        line((f"{ready}", GOOD if here and ready == len(here) else CAREFUL), f"/{len(here)} ready"),
        line(f"busy {sum(busy) / len(busy):.0%}" if busy else "busy -"),
        line((made if view.filtered is None else f"rejects {view.filtered:.0%}", DIM)),
    ]


def _rate(images_per_s: float, width: int) -> Text:
    number = human(images_per_s)
    return line((number, STRONG), " images/s" if len(number) + len(" images/s") <= width else "/s")


def _stream(view: RunView, width: int) -> Block:
    tickets, arrived = _queue(view, "tickets"), _queue(view, "arrived")
    return [
        bar(width, (_share(arrived), FULL, "cyan"), (_share(tickets), PROMISED, "blue")),
        line((f"{FULL} ", "cyan"), f"{human(arrived.filled)} here"),
        line((f"{PROMISED} ", "blue"), f"{human(tickets.filled)} asked"),
        line((f"{nbytes(view.bytes_per_s)}/s", DIM)),
    ]


def _reservoir(view: RunView, width: int) -> Block:
    kept = _queue(view, "reservoir")
    return [
        bar(width, (_share(kept), FULL, "cyan")),
        line((human(kept.filled), STRONG), f"/{human(kept.capacity)}", " groups" if width >= 16 else ""),
        line(f"used {view.reuse:.1f}×"),
        line((nbytes(kept.nbytes), DIM)),
    ]


def _trainer(view: RunView, width: int) -> Block:
    waits = view.data_wait
    style = BAD if waits >= STARVED_FRACTION else CAREFUL if waits > FED_FRACTION else GOOD
    step = view.stages.get("step")
    took = f"step {seconds(step.p50_s)}" if step else f"{human(view.steps_per_s)} steps/s"
    if view.flop_share is not None:
        last = f"{view.flop_share:.0%} of FLOP/s"
    else:
        last = "batch ready" if _queue(view, "batches").filled else "no batch ready"
    return [
        _rate(view.trained_per_s, width),
        line("waits ", (f"{waits:.0%}", style)),
        line(took),
        line((last, DIM)),
    ]


def _queue(view: RunView, name: str) -> QueueView:
    found = [queue for queue in view.queues if queue.name == name]
    return found[0] if found else QueueView(name=name, filled=0, capacity=0)


def _share(queue: QueueView) -> float:
    return min(1.0, queue.filled / queue.capacity) if queue.capacity else 0.0


def verdict(view: RunView, width: int) -> Block:
    """What bounds the run and what to do about it, or what it waits for: two lines."""
    if view.state in ("waiting", "stalled") or view.waiting_for:
        style = _RUN_STYLES[view.state]
        headline = "FILLING" if view.state == "running" else view.state.upper()
        return wrapped(line((headline, style), f"  {(view.waiting_for or '').removeprefix('waiting ')}"), width, 2)
    headline, style = _HEADLINES.get(view.verdict.side, (view.verdict.side.upper(), STRONG))
    evidence = line((headline, f"bold {style}"), f"  {view.verdict.evidence}")
    return [fit(evidence, width), fit(line((view.verdict.next_step, DIM)), width)]


def wrapped(text: Text, width: int, rows: int) -> Block:
    """A text on exactly so many lines; cut where they are too few."""
    lines = _fold(text, width)
    if len(lines) > rows:
        lines[rows - 1] = lines[rows - 1].append(" ").append_text(lines[rows])
    return [fit(lines[row] if row < len(lines) else Text(), width) for row in range(rows)]


def _fold(text: Text, width: int) -> Block:
    """Lines of at most `width` cells, broken between words where they allow it."""
    lines: Block = []
    rest = text
    while rest.cell_len > width:
        cut = width
        while rest[:cut].cell_len > width:
            cut -= 1
        space = rest.plain.rfind(" ", 1, cut + 1)
        place = space if space > width // 2 else cut
        lines.append(rest[:place])
        rest = rest[place + (space == place) :]
    return [*lines, rest]


def fleet(view: RunView, width: int, rows: int) -> Block:
    """A table of the producers, `rows` lines below its heads; those in trouble first where not all have room."""
    heads = line(("FLEET".ljust(_name_width(width)), TITLE), (f"{'state':<10}", DIM))
    heads.append(_figures("images/s", "busy", "holds", "p50", "p95"), DIM)
    if width - heads.cell_len >= _LEAST_DEVICE:
        heads.append("  device", DIM)
    producers, rest = list(view.producers), Text()
    if not producers:
        return [fit(heads, width), fit(line(("no producer has come yet", CAREFUL)), width)]
    if len(producers) > rows:
        producers.sort(key=lambda producer: producer.state == "ready")
        producers, others = producers[: rows - 1], producers[rows - 1 :]
        states = Counter(producer.state for producer in others)
        told = ", ".join(f"{count} {state}" for state, count in states.items())
        rest = line((f"and {len(others)} more: {told}", DIM))
    lines = [heads, *(_producer(producer, width) for producer in producers), *([rest] if rest else [])]
    return [fit(text, width) for text in lines]


def _name_width(width: int) -> int:
    return max(14, min(28, width // 5))


def _figures(rate: str, busy: str, holds: str, p50: str, p95: str) -> str:
    return f"{rate:>9}{busy:>6}{holds:>9}{p50:>8}{p95:>8}"


def _producer(producer: ProducerView, width: int) -> Text:
    symbol, style = _PRODUCER_STATES.get(producer.state, ("?", STRONG))
    is_gone = producer.state == "gone"
    name_width = _name_width(width)
    text = fit(line((f"{symbol} ", style), (producer.name, DIM if is_gone else STRONG)), name_width - 1)
    text.append(" ").append(f"{producer.state:<10}", style)
    if is_gone:
        told = f"{human(producer.images)} images; last heard {seconds(producer.silent_s)} ago"
        text.append(told.rjust(_FIGURES_WIDTH), DIM)
    else:
        busy = "-" if producer.busy_share is None else f"{producer.busy_share:.0%}"
        holds = f"{producer.held}/{producer.credit_groups}"
        times = seconds(producer.p50_s), seconds(producer.p95_s)
        text.append(_figures(human(producer.images_per_s), busy, holds, *times))
    if width - text.cell_len >= _LEAST_DEVICE:
        text.append(f"  {producer.device} {producer.backend}", DIM)
    return text


def curve(name: str, points: Sequence[tuple[int, float]], width: int, rows: int, style: str, form: str) -> Block:
    """A curve below its name and its newest value, with the values at its edges. `form` says how they are written."""
    if not points:
        return [fit(line((name, TITLE), ("  not measured yet", DIM)), width), *[Text()] * rows]
    newest = points[-1][1]
    title = line((name, TITLE), "  ", (form.format(newest), STRONG), (f"  step {points[-1][0]}", DIM))
    values = [value for _, value in points]
    low, high = min(values), max(values)
    labels = [form.format(high)] + [""] * (rows - 2) + [form.format(low)] if rows > 1 else [form.format(newest)]
    label_width = max(map(len, labels)) + 1
    drawn = draw(points, max(1, width - label_width), rows, low, high, points[-1][0])
    lines = [
        line((f"{label:>{label_width - 1}} ", DIM), (text, style)) for label, text in zip(labels, drawn, strict=True)
    ]
    return [fit(title, width), *(fit(text, width) for text in lines)]


def stages(view: RunView, width: int, rows: int) -> Block:
    """How long this process's stages take, in the order of the data's way, and what share of the time."""
    heads = line((f"{'STAGES':<15}", TITLE), (f"{'p50':>8}{'p95':>9}{'p99':>9}  share of the time", DIM))
    names = [name for name in _STAGES if name in view.stages]
    names += sorted(view.stages.keys() - set(_STAGES) - {"sample_age"})
    lines = [fit(heads, width)]
    for name in names[:rows]:
        stage = view.stages[name]
        times = f"{seconds(stage.p50_s):>8}{seconds(stage.p95_s):>9}{seconds(stage.p99_s):>9}"
        waits = name.startswith("wait")
        share = bar(max(4, width - 15 - 26 - 7), (stage.share, FULL, CAREFUL if waits else "cyan"))
        lines.append(fit(line(f"{name:<15}{times}  ").append_text(share).append(f"{stage.share:5.0%}", DIM), width))
    return lines


def events(view: RunView, width: int, rows: int) -> Block:
    """The newest lines of the log, on `rows` lines below what has gone wrong so far."""
    wrong = {
        "asked for again": view.expired,
        "asked for twice": view.hedged,
        "replaced": view.quarantined,
        "messages refused": sum(view.rejects.values()),
    }
    told = ", ".join(f"{count} {what}" for what, count in wrong.items() if count)
    title = line(("EVENTS", TITLE), (f"  {told}", CAREFUL))
    lines: Block = []
    for event in reversed(view.events):
        room = rows - len(lines)
        if room <= 0:
            break
        above = _event(event, width)
        if len(above) > room:
            above = [*above[: room - 1], fit(above[room - 1].append(" " * width), width)]
        lines = above + lines
    return [fit(title, width), *(fit(text, width) for text in lines)]


def _event(event: EventView, width: int) -> Block:
    at = time.strftime("%H:%M:%S", time.localtime(event.at))
    mark = ("▲ ", CAREFUL) if event.is_warning else "  "
    first, *more = _fold(Text(event.text), max(10, width - 11))
    return [line((f"{at} ", DIM), mark).append_text(first), *(line(" " * 11).append_text(text) for text in more)]
