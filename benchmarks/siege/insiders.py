"""Three producers with a good key that mean no good: `python -m siege.insiders JSON`, from `benchmarks/`.

- bomber: messages that are small and claim to be large, or are large and hold nothing, and a JPEG bomb for a ticket;
- flooder: small nonsense, as fast as the rank's socket takes it, with a new connection when it takes no more;
- byzantine: joins, takes tickets, and answers each with another lie.

Each writes what it sent, and the refusals that came back by their first word, as JSON.
"""

import json
import os
import pickle
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import msgpack
import simplejpeg
import zmq

from penstock.producer.noise import noise
from penstock.protocol.checksum import crc32
from penstock.protocol.codec import encode
from penstock.protocol.errors import MessageError
from penstock.protocol.image_codec import JPEG
from penstock.protocol.keys import ProducerKey, read_producer_key
from penstock.protocol.messages import Heartbeat, Nack, Result
from penstock.protocol.tickets import Ticket
from siege.insider import Insider, paced_manifest

BOMBS_PER_S = 200.0
FLOOD_TURN = 200
"""Messages that the flooder sends before it listens."""
FULL_S = 3.0
"""Who can send nothing for as long has been hung up on; a handshake may take nearly as long where all are busy."""
FAR = 256
"""From a ticket to one that somebody else has answered: near it are others of its own, and for those the rank believes
any pixels."""
GIVES_WAY = 5
"""Niceness: an attacker's processor is not the rank's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InsiderPlan:
    """What one insider does."""

    role: str
    """`bomber`, `flooder` or `byzantine`; also its name."""
    endpoint: str
    key: str
    """File of its key; empty for a plain link."""
    until: str
    """File whose coming ends it."""
    report: str
    """File that gets what it did."""


@dataclass(slots=True)
class Deeds:
    """What an insider did."""

    sent: Counter[str]
    refused: Counter[str]
    connections: int = 0


def bombs() -> Mapping[str, bytes]:
    """Single frames that no decoder may unfold: what they are, and their bytes."""
    mebi = 1 << 20
    return {
        "a million lists deep": b"\x91" * (mebi - 1) + b"\xc0",
        "half a million empty maps": b"\xdd" + struct.pack(">I", mebi // 2) + b"\x80" * (mebi // 2),
        "a list of four billion": b"\xdd\xff\xff\xff\xff",
        "a map of four billion": b"\xdf\xff\xff\xff\xff",
        "a string of four gigabytes": b"\xdb\xff\xff\xff\xff",
        "a mebibyte of text": msgpack.packb({"t": "x" * (mebi - 64)}),
        "pickle": pickle.dumps({"t": "HELLO"}),
        "an extension": msgpack.packb({"t": msgpack.ExtType(7, b"code")}),
        "a key twice": b"\x82\xa1t\xa1x\xa1t\xa1x",
        "not a number": msgpack.packb({"v": float("nan")}),
    }


def jpeg_bomb() -> bytes:
    """A JPEG of a few hundred bytes that says it is 65500 pixels high and wide: its frame header is changed."""
    image = bytearray(simplejpeg.encode_jpeg(noise_image(), quality=50))
    place = image.index(b"\xff\xc0") + 5
    image[place : place + 4] = struct.pack(">HH", 65500, 65500)
    return bytes(image)


def noise_image() -> Any:
    """uint8 [16, 16, 3]."""
    import numpy as np

    return np.zeros((16, 16, 3), np.uint8)


def bomb(insider: Insider, deeds: Deeds, is_over: Callable[[], bool]) -> None:
    """Send every bomb in turn, and a JPEG bomb for every ticket."""
    frames, jpeg = cycle(bombs().items()), jpeg_bomb()
    if not insider.join(paced_manifest("jpeg-92"), credit_groups=1):
        return
    while not is_over() and not insider.is_rejected:
        for _ in range(10):
            name, frame = next(frames)
            deeds.sent[name] += insider.send(frame)
            insider.listen(int(1000 / BOMBS_PER_S))
        if (ticket := insider.ticket()) is not None:
            payload = jpeg * ticket.recipe.num_images
            sizes = (len(jpeg),) * ticket.recipe.num_images
            insider.say(replace(honest(ticket)[0], codec=JPEG, sizes=sizes, crc32=crc32(payload)), payload)
            deeds.sent["a JPEG bomb"] += 1


def flood(insider: Insider, deeds: Deeds, is_over: Callable[[], bool]) -> None:
    """Nonsense, messages of no producer that is known, and old ones again, as fast as they are taken, until none is."""
    old = encode(Heartbeat(held=()), insider.header)
    frames = [b"\xc1" * 64, old, encode(Nack(index=0, attempt=0, reason="no", retryable=True), insider.header)]
    sent_at = time.monotonic()
    while not is_over() and time.monotonic() - sent_at < FULL_S:
        for frame in frames * (FLOOD_TURN // len(frames)):
            if not insider.send(frame):
                insider.socket.poll(5, zmq.POLLOUT)
                break
            sent_at = time.monotonic()
            deeds.sent["flood"] += 1
        while insider.socket.poll(0):
            insider.listen(0)


def honest(ticket: Ticket) -> tuple[Result, bytes]:
    """The right answer to a ticket."""
    payload = noise(ticket.recipe).tobytes()
    shape = ticket.recipe.shape
    return Result(index=ticket.index, attempt=ticket.attempt, shape=shape, crc32=crc32(payload), seconds=0.01), payload


def lies(insider: Insider, ticket: Ticket) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every lie about a ticket: what it is, and what tells it."""
    result, payload = honest(ticket)
    m, height, width, channels = result.shape
    flipped = bytes([payload[0] ^ 1]) + payload[1:]
    stale = replace(insider.header, incarnation=insider.header.incarnation - 1)
    yield "another shape", lambda: insider.say(replace(result, shape=(m, 2 * height, width // 2, channels)), payload)
    yield "a terabyte", lambda: insider.say(replace(result, shape=(m, 1 << 13, 1 << 13, channels)), payload)
    yield "half the bytes", lambda: insider.say(result, payload[: len(payload) // 2])
    yield "no pixels", lambda: insider.say(result)
    yield "a wrong checksum", lambda: insider.say(result, flipped)
    yield "all black", lambda: insider.say(replace(result, crc32=crc32(bytes(len(payload)))), bytes(len(payload)))
    others = max(0, ticket.index - FAR)
    yield "another's ticket", lambda: insider.say(replace(result, index=others), payload)
    yield "another attempt", lambda: insider.say(replace(result, attempt=ticket.attempt + 1), payload)
    yield "an earlier life", lambda: insider.say(result, payload, header=stale)
    yield "a replay", lambda: insider.send(*insider.say(result, flipped))
    yield "silence", lambda: insider.listen(1000)


def lie(insider: Insider, deeds: Deeds, is_over: Callable[[], bool], first: int = 0) -> None:
    """Answer every ticket with another lie, until the rank has enough of it."""
    number = first
    while not is_over() and not insider.is_rejected:
        if not insider.header.run and not insider.join(paced_manifest(), credit_groups=4):
            return
        if (ticket := insider.ticket()) is None:
            return
        told = list(lies(insider, ticket))
        name, tell = told[number % len(told)]
        number += 1
        tell()
        deeds.sent[name] += 1
        insider.hear(Nack, 0.5)


def be(plan: InsiderPlan) -> Deeds:
    """Do it again and again, with a new connection where the last is of no more use."""
    key: ProducerKey | None = read_producer_key(Path(plan.key)) if plan.key else None
    deeds, until = Deeds(Counter(), Counter()), Path(plan.until)
    roles: dict[str, Callable[[Insider, Deeds, Callable[[], bool]], None]]
    roles = {"bomber": bomb, "flooder": flood, "byzantine": lambda *of: lie(*of, first=3 * deeds.connections)}
    while not until.exists():
        with Insider(plan.endpoint, key, plan.role) as insider, suppress(MessageError):
            try:
                roles[plan.role](insider, deeds, until.exists)
            finally:
                deeds.connections += 1
                deeds.refused += insider.refused
        time.sleep(0.2)
    return deeds


def main(argument: str) -> None:
    """Be the insider that the plan describes, and write down what came of it."""
    os.nice(GIVES_WAY)
    plan = InsiderPlan(**json.loads(argument))
    deeds = be(plan)
    report = {"sent": deeds.sent, "refused": deeds.refused, "connections": deeds.connections}
    Path(plan.report).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
