"""The rules of Chrome's trace events as far as Perfetto's importer keeps them, by a reader that shares nothing with us.

From the format's document (docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU) and from Perfetto's
documentation of the importer (perfetto.dev/docs/getting-started/other-formats): every event has `ph`, `pid` and, but
for metadata of a process, `tid`; complete events have `ts` and `dur` in microseconds; slices of a thread are nested
strictly; a flow has one `s` and one `f` with equal `id`, `cat` and `name`, in the order of time, each in a slice of its
thread.
"""

import gzip
import json
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

METADATA = {"process_name", "process_labels", "process_sort_index", "thread_name", "thread_sort_index"}


def read(path: Path) -> dict[str, Any]:
    """The file; times as exact decimals."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    loaded: dict[str, Any] = json.loads(data, parse_float=Decimal)
    return loaded


def violations(trace: dict[str, Any]) -> list[str]:
    """What of the trace breaks a rule."""
    found: list[str] = []
    slices: defaultdict[tuple[int, int], list[tuple[Decimal, Decimal]]] = defaultdict(list)
    flows: defaultdict[object, list[dict[str, Any]]] = defaultdict(list)
    if trace.get("displayTimeUnit") not in ("ms", "ns"):
        found.append("displayTimeUnit")
    for event in trace["traceEvents"]:
        match event["ph"]:
            case "M":
                if event["name"] not in METADATA or not isinstance(event["args"], dict):
                    found.append(f"metadata {event}")
            case "X":
                ok = isinstance(event["name"], str) and event["ts"] >= 0 and event["dur"] > 0
                found += [] if ok else [f"slice {event}"]
                slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
            case "s" | "t" | "f":
                flows[event["id"], event["cat"], event["name"]].append(event)
            case _:
                found.append(f"phase {event}")
    for thread, spans in slices.items():
        stack: list[tuple[Decimal, Decimal]] = []
        for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while stack and stack[-1][1] <= begin:
                stack.pop()
            if stack and end > stack[-1][1]:
                found.append(f"{thread}: {begin} to {end} overlaps {stack[-1]}")
            stack.append((begin, end))
    for name, events in flows.items():
        if "".join(event["ph"] for event in events) != "s" + "t" * (len(events) - 2) + "f":
            found.append(f"flow {name}: {[event['ph'] for event in events]}")
        if [event["ts"] for event in events] != sorted(event["ts"] for event in events):
            found.append(f"flow {name} goes back in time")
        for event in events:
            spans = slices[event["pid"], event["tid"]]
            if not any(begin <= event["ts"] < end for begin, end in spans):
                found.append(f"flow {name}: nothing encloses {event}")
            if event["ph"] == "f" and event.get("bp") != "e":
                found.append(f"flow {name} ends in the next slice")
    return found


def processes(trace: dict[str, Any]) -> dict[str, int]:
    """The number of each process, by its name."""
    names = [event for event in trace["traceEvents"] if event["name"] == "process_name"]
    return {event["args"]["name"]: event["pid"] for event in names}


def threads(trace: dict[str, Any], pid: int) -> dict[int, str]:
    """The names of a process's threads, by number."""
    mine = [event for event in trace["traceEvents"] if event["name"] == "thread_name" and event["pid"] == pid]
    return {event["tid"]: event["args"]["name"] for event in mine}


def stages(trace: dict[str, Any], pid: int) -> set[str]:
    """What a process has done."""
    return {event["name"] for event in trace["traceEvents"] if event["ph"] == "X" and event["pid"] == pid}


def ways(trace: dict[str, Any]) -> list[list[tuple[int, str]]]:
    """Each flow as the (process, stage) that it passes, in its order; the stage is that of the innermost slice."""
    at: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            at[event["pid"], event["tid"]].append(event)
    found: defaultdict[object, list[tuple[int, str]]] = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] in "stf":
            around = [
                piece
                for piece in at[event["pid"], event["tid"]]
                if piece["ts"] <= event["ts"] < piece["ts"] + piece["dur"]
            ]
            innermost = min(around, key=lambda piece: piece["dur"])
            found[event["id"]].append((event["pid"], innermost["name"]))
    return list(found.values())
