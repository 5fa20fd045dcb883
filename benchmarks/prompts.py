"""What do ten million captions cost: seconds until the first prompt, memory, and prompts/s in a new order?

    python benchmarks/prompts.py --json runs/bench/prompts.json
    python benchmarks/prompts.py --quick

Captions of about 60 bytes are written into a temporary folder, as text and in each of the other formats, and each file
is opened by `open_source` in a process of its own. `start_s` is the time of that call; `rss_mb` the process's peak of
resident memory (VmHWM), Python and NumPy included; `prompts_per_s` one thread's rate over the first indices of the
first epoch, whose rows lie all over the file; `tickets_per_s` the same of whole tickets. The files have just been
written, and come from the operating system's cache where there is memory for them. The same by this process's CPU time
(`start_cpu_s`, `prompts_per_cpu_s`) says what a machine that others work on too hides; the bars are of real time.
"""

import csv
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
from harness import BenchmarkError, Processes
from rich.console import Console
from rich.table import Table

FORMATS = ("txt", "csv", "tsv", "jsonl", "parquet")
BARS = {"start_s": 10.0, "rss_mb": 500.0, "prompts_per_s": 200_000.0}
"""Of text: at most so many seconds and MB, at least so many prompts/s."""
ROWS_PER_PART = 100_000
LONGEST_S = 600.0
KINDS = ("photo", "drawing", "painting", "close-up", "sketch", "portrait", "print", "view")
LOOKS = ("red", "small", "old", "wooden", "striped", "bright", "quiet", "wet", "golden", "grey", "round", "tall")
THINGS = ("fox", "boat", "chair", "tower", "apple", "horse", "bridge", "kite", "lamp", "river", "train", "owl")
PLACES = ("in the snow", "under a bridge", "on a table", "by the sea, at dusk", "behind glass", "in a field of barley")


def parts_of(num_rows: int) -> Iterator[list[str]]:
    """The captions, in parts; the same in every run."""
    rng = np.random.default_rng(0)
    for first in range(0, num_rows, ROWS_PER_PART):
        size = min(ROWS_PER_PART, num_rows - first)
        words = [[part[i] for i in rng.integers(len(part), size=size)] for part in (KINDS, LOOKS, THINGS, PLACES)]
        rows = range(first, first + size)
        yield [f"a {a} of a {b} {c} {d}, number {row}" for a, b, c, d, row in zip(*words, rows, strict=True)]


def write(path: Path, num_rows: int) -> None:
    """Write the captions as the file's suffix says."""
    if path.suffix == ".parquet":
        _write_parquet(path, num_rows)
        return
    lines: Callable[[list[str]], str] = {
        ".txt": lambda part: "\n".join(part) + "\n",
        ".csv": lambda part: _cells(part, ","),
        ".tsv": lambda part: _cells(part, "\t"),
        ".jsonl": lambda part: "".join([json.dumps({"id": 7, "caption": caption}) + "\n" for caption in part]),
    }[path.suffix]
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix in (".csv", ".tsv"):
            file.write("id\tcaption\n" if path.suffix == ".tsv" else "id,caption\n")
        for part in parts_of(num_rows):
            file.write(lines(part))


def _cells(part: list[str], separator: str) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator="\n").writerows([(7, caption) for caption in part])
    return out.getvalue()


def _write_parquet(path: Path, num_rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, pa.schema([("caption", pa.string())])) as writer:
        for part in parts_of(num_rows):
            writer.write_table(pa.table({"caption": part}))


def measure(path: Path, num_prompts: int) -> dict[str, float]:
    """Open a file and ask for prompts and tickets: what the process of one format does."""
    from penstock.consumer.config import TrainConfig
    from penstock.consumer.making_config import PromptsConfig
    from penstock.consumer.prompts.opening import open_source
    from penstock.consumer.prompts.writer import TicketWriter

    began, began_cpu = time.perf_counter(), time.process_time()
    source = open_source(PromptsConfig(source=str(path)), 0)
    source.prompt(0)
    start_s, start_cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    began, began_cpu = time.perf_counter(), time.process_time()
    for index in range(num_prompts):
        source.prompt(index)
    prompts_s, prompts_cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    writer = TicketWriter(source, TrainConfig(), "d" * 64)
    num_tickets = num_prompts // 10
    began = time.perf_counter()
    for index in range(num_prompts, num_prompts + num_tickets):
        writer.write(index, 0, 0)
    tickets_s = time.perf_counter() - began
    return {
        "start_s": start_s,
        "rss_mb": _peak_mb(),
        "prompts_per_s": num_prompts / prompts_s,
        "tickets_per_s": num_tickets / tickets_s,
        "start_cpu_s": start_cpu_s,
        "prompts_per_cpu_s": num_prompts / prompts_cpu_s,
    }


def _peak_mb() -> float:
    """The most memory that this process has had, in MB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise BenchmarkError("/proc/self/status does not say the peak of memory (VmHWM); this needs Linux")


def compare(num_rows: int, num_prompts: int, folder: Path) -> dict[str, dict[str, float]]:
    """What each format costs. Raises BenchmarkError where one takes too long or fails."""
    processes, found = Processes(folder), {}
    for name in FORMATS:
        path = folder / f"captions.{name}"
        write(path, num_rows)
        file_mb = path.stat().st_size / 1e6
        command = [sys.executable, str(Path(__file__)), "--measure", str(path), "--prompts", str(num_prompts)]
        processes.finish(name, command, LONGEST_S)
        found[name] = {"file_mb": file_mb, **json.loads(processes.log(name).splitlines()[-1])}
        path.unlink()
    return found


def print_table(num_rows: int, found: dict[str, dict[str, float]]) -> None:
    """What was seen."""
    table = Table(title=f"{num_rows:,} captions")
    titles = ("format", "file, MB", "start, s", "CPU, s", "peak memory, MB", "prompts /s", "by CPU time", "tickets /s")
    for title in titles:
        table.add_column(title, justify="left" if title == "format" else "right")
    for name, row in found.items():
        start = f"{row['file_mb']:,.0f}", f"{row['start_s']:.2f}", f"{row['start_cpu_s']:.2f}", f"{row['rss_mb']:.0f}"
        rates = (f"{row[rate]:,.0f}" for rate in ("prompts_per_s", "prompts_per_cpu_s", "tickets_per_s"))
        table.add_row(name, *start, *rates)
    Console().print(table)


def main() -> int:
    """Run the benchmark. Returns the exit status: 0 where text keeps within the bars."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, metavar="N", help="captions in a file (10 million)")
    parser.add_argument("--prompts", type=int, default=500_000, metavar="N", help="prompts to ask for (500,000)")
    parser.add_argument("--quick", action="store_true", help="20,000 captions, 5,000 prompts")
    parser.add_argument("--measure", type=Path, metavar="PATH", help="open this file only, and print its figures")
    options = parser.parse_args()
    num_rows, num_prompts = (20_000, 5_000) if options.quick else (options.rows, options.prompts)
    if min(num_rows, num_prompts) < 100:
        raise BenchmarkError(f"--rows and --prompts must be >= 100, got {num_rows} and {num_prompts}")
    if options.measure is not None:
        print(json.dumps(measure(options.measure, num_prompts)))
        return 0
    with tempfile.TemporaryDirectory(prefix="penstock-prompts-") as folder:
        found = compare(num_rows, num_prompts, Path(folder))
    print_table(num_rows, found)
    text: dict[str, Any] = found["txt"]
    within = text["prompts_per_s"] > BARS["prompts_per_s"]
    within = within and all(text[name] < BARS[name] for name in ("start_s", "rss_mb"))
    result = {"rows": num_rows, "prompts": num_prompts, **text, "within_bars": within, "formats": found}
    harness.write_json(options.json, result, ("numpy", "pyarrow"))
    return 0 if within or options.quick else 1


if __name__ == "__main__":
    harness.run(main)
