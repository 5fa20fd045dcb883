"""docs/protocol.md says what is true: its bytes, tables, seeds, limits and refusals.

Values are read from the page and checked twice: against the code, and against plain msgpack and hashlib.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

import msgpack
import numpy as np
import pytest
import zmq

from penstock.consumer.config import StreamConfig
from penstock.consumer.stream import GroupStream
from penstock.protocol import limits, messages, tickets
from penstock.protocol.actions import Deliver, Send
from penstock.protocol.admission import Expectation
from penstock.protocol.codec import decode, encode
from penstock.protocol.dispatcher import Patience
from penstock.protocol.messages import MESSAGE_TYPES, Header
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.sockets import ProducerSockets, RankSocket
from penstock.protocol.tickets import Manifest, Recipe, Ticket
from tests.protocol.desk import hear

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
SAID = re.compile(
    r"^([▸◂]) \*\*([A-Z]+)\*\*\..*?```hex\n(.*?)```(?:\n\nSecond frame.*?```pixels\n(.*?)```)?", re.M | re.S
)
DEFINED = re.compile(
    r"^\*\*(\w+)\*\*[^\n|]*\n(?:[^\n|]+\n)*\n\| field \| type \| meaning \|\n\| --- .*\n((?:\|.*\n)+)", re.M
)


def section(title: str) -> str:
    """The text under a heading of the page."""
    return re.split(r"^## ", PAGE.split(f"\n## {title}\n")[1], flags=re.M)[0]


def rows(text: str) -> list[list[str]]:
    """The rows of the tables in `text`, heads left out."""
    table = re.findall(r"^\|(.*)\|$", re.sub(r"^\|.*\|\n\| ---.*\n", "", text, flags=re.M), re.M)
    return [[cell.strip() for cell in row.split("|")] for row in table]


# --- the exchange -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """One message of the worked exchange."""

    by_producer: bool
    kind: str
    frame: bytes
    stated: dict[str, Any]
    """What the right-hand side of the page says."""
    pixels: bytes | None


def read_stated(lines: list[str]) -> Any:
    """The value that `"key": value`, `map of N` and `list of N` describe, line by line; takes them off `lines`."""
    text = re.sub(r'^"\w+": ', "", lines.pop(0))
    if match := re.fullmatch(r"map of (\d+)", text):
        pairs = [(json.loads(lines[0].split(": ")[0]), read_stated(lines)) for _ in range(int(match[1]))]
        return dict(pairs)
    if match := re.fullmatch(r"list of (\d+)", text):
        return [read_stated(lines) for _ in range(int(match[1]))]
    return json.loads(text)


def exchange() -> Iterator[Said]:
    for arrow, kind, block, pixels in SAID.findall(section("A worked exchange")):
        split = [re.fullmatch(r"([0-9a-f]{2}(?: [0-9a-f]{2})*)(?: {2,}(\S.*))?", line) for line in block.splitlines()]
        assert all(split), (kind, block)
        frame = bytes.fromhex("".join(match[1] for match in split if match))
        stated = [match[2] for match in split if match and match[2]]
        yield Said(arrow == "▸", kind, frame, read_stated(stated), bytes.fromhex(pixels) or None)
        assert stated == []


EXCHANGE = list(exchange())


def ids(said: Said) -> str:
    return said.kind


def test_the_exchange_shows_every_message_but_the_refusal() -> None:
    assert {said.kind for said in EXCHANGE} == MESSAGE_TYPES.keys() - {"REJECT"}
    assert [said.kind for said in EXCHANGE].count("HEARTBEAT") == 2


@pytest.mark.parametrize("said", EXCHANGE, ids=ids)
def test_the_bytes_of_the_exchange_are_plain_msgpack_of_what_stands_beside_them(said: Said) -> None:
    assert said.stated["t"] == said.kind
    assert msgpack.packb(said.stated) == said.frame


@pytest.mark.parametrize("said", EXCHANGE, ids=ids)
def test_the_codec_reads_and_writes_the_bytes_of_the_exchange(said: Said) -> None:
    header, message = decode(said.frame)
    told = {
        "v": limits.PROTOCOL_VERSION,
        "t": message.kind,
        "run": header.run,
        "inc": header.incarnation,
        "seq": header.seq,
    }
    assert json.loads(json.dumps(told | asdict(message))) == said.stated
    assert encode(message, header) == said.frame


def test_the_result_of_the_exchange_has_its_ticket_s_shape_and_checksum() -> None:
    [result] = [said for said in EXCHANGE if said.kind == "RESULT"]
    [ticket] = next(said.stated["tickets"] for said in EXCHANGE if said.kind == "TICKETS")
    recipe = ticket["recipe"]
    assert result.pixels is not None
    assert result.stated["shape"] == [recipe["num_images"], recipe["height"], recipe["width"], 3]
    assert len(result.pixels) == np.prod(result.stated["shape"])
    assert result.stated["crc32"] == zlib.crc32(result.pixels)


def _machine(
    run: str, incarnation: int, endpoints: tuple[str, ...], expects: Expectation | None = None, *, traces: bool = False
) -> RankMachine:
    return RankMachine(
        run_id=run,
        incarnation=incarnation,
        rank=0,
        endpoints=endpoints,
        expects=expects or Expectation(),
        order="ticket",
        window_groups=8,
        window_bytes=1 << 24,
        patience=Patience(),
        traces=traces,
    )


def test_a_rank_answers_the_producer_of_the_exchange_as_the_page_says() -> None:
    told = {said.kind: decode(said.frame)[1] for said in EXCHANGE if not said.by_producer}
    tickets_message, welcome = told["TICKETS"], told["WELCOME"]
    assert isinstance(tickets_message, messages.Tickets)
    assert isinstance(welcome, messages.Welcome)
    machine = _machine("demo", 7, welcome.endpoints, traces=welcome.trace)
    machine.plan(tickets_message.tickets[0])
    # As if number 7 were the same RESULT again, which the page tells of without showing it.
    mine = [said for said in EXCHANGE if said.by_producer]
    [result] = [said for said in mine if said.kind == "RESULT"]
    answers, delivered = [], []
    for said in [*mine[: mine.index(result) + 1], result, *mine[mine.index(result) + 1 :]]:
        header, message = decode(said.frame)
        if delivered and said is result:
            header = Header(run="demo", incarnation=7, seq=7)
        actions = hear(machine, b"p", header, message, said.pixels, float(header.seq))
        if said.kind == "HEARTBEAT":
            actions += machine.tick(float(header.seq))
        answers += [action.message for action in actions if isinstance(action, Send)]
        delivered += [action for action in actions if isinstance(action, Deliver)]
    assert answers == [told[kind] for kind in ("WELCOME", "TICKETS", "HEARTBEAT", "CLOCK", "ACK", "NACK")]
    assert [bytes(group.payload) for group in delivered] == [result.pixels]
    assert machine.peers == {}


# --- the tables ---------------------------------------------------------------------------------------------------


def test_the_sockets_have_the_options_of_the_page() -> None:
    said = {row[0]: row[1:] for row in rows(section("Sockets"))}
    assert said["`MAXMSGSIZE`"][1] == "1 MiB"
    options = {zmq.HANDSHAKE_IVL: "`HANDSHAKE_IVL`", zmq.LINGER: "`LINGER`"}
    rank, producer = RankSocket("tcp://127.0.0.1:0", group_bytes=3 << 20), ProducerSockets()
    try:
        producer.connect(rank.endpoint)
        [dealer] = [dial.socket for dial in producer._dials.values()]
        assert (rank._socket.type, dealer.type) == (zmq.ROUTER, zmq.DEALER)
        assert rank._socket.getsockopt(zmq.MAXMSGSIZE) == 3 << 20
        assert dealer.getsockopt(zmq.MAXMSGSIZE) == 1 << 20
        for socket, column in ((rank._socket, 0), (dealer, 1)):
            assert said["`SNDHWM`, `RCVHWM`"][column] == "1024 messages"
            assert socket.getsockopt(zmq.SNDHWM) == socket.getsockopt(zmq.RCVHWM) == 1024
            for option, name in options.items():
                assert said[name][column] == f"{socket.getsockopt(option) // 1000} s"
            beats = [socket.getsockopt(option) // 1000 for option in (zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TIMEOUT)]
            assert said["`HEARTBEAT_IVL`, `HEARTBEAT_TIMEOUT`"][column] == "{} s, {} s".format(*beats)
        assert dealer.getsockopt(zmq.IMMEDIATE) == 1
        assert "`IMMEDIATE`" in said["besides"][1]
    finally:
        producer.close()
        rank.close()


def test_the_table_of_limits_is_the_code_s() -> None:
    said = {name.strip("`"): int(value) for name, value, _ in rows(section("Limits"))}
    assert said == {name: value for name, value in vars(limits).items() if name.isupper()}


def _type_of(hint: Any) -> str:
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        return {str: "list of strings", int: "list of"}.get(item, "list of")
    if get_origin(hint) is dict:
        return "map of strings to strings"
    return {str: "string", int: "integer", float: "number", bool: "boolean"}.get(hint, "map: ")


DEFINITIONS = {name: rows(table) for name, table in DEFINED.findall(PAGE)}
PARTS = {"Ticket": Ticket, "Attempt": tickets.Attempt, "Recipe": Recipe, "Manifest": Manifest}


def test_the_page_defines_every_message_and_every_part_and_nothing_else() -> None:
    assert DEFINITIONS.keys() == MESSAGE_TYPES.keys() | PARTS.keys()


@pytest.mark.parametrize(("name", "cls"), [*MESSAGE_TYPES.items(), *PARTS.items()])
def test_every_field_of_a_message_is_on_the_page_with_its_type(name: str, cls: type[Any]) -> None:
    hints = get_type_hints(cls)
    table = DEFINITIONS[name]
    assert [field.strip("`") for field, _, _ in table] == [field.name for field in fields(cls)]
    for field, said, _ in table:
        assert said.startswith(_type_of(hints[field.strip("`")])), (name, field, said)


def test_the_directions_of_messages_are_those_of_the_code() -> None:
    def directions(text: str | None) -> list[tuple[str, str, list[str]]]:
        found = re.findall(r"(\w+) to (\w+): ([A-Z,\s]+)\.", text or "")
        return [(sender, to, re.split(r",\s", kinds)) for sender, to, kinds in found]

    said = directions(section("Messages"))
    assert [sender for sender, _, _ in said] == ["Producer", "Rank"]
    assert said == directions(messages.__doc__)


def test_every_reason_that_the_code_gives_is_on_the_page_and_no_other() -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "protocol").glob("*.py")}
    sources["stream.py"] = (ROOT / "consumer" / "stream.py").read_text()
    given: set[str] = set()
    for name, source in sources.items():
        given |= set(re.findall(r'(?:MessageError|_WrongError|__init__)\(\s*"(\w+)"', source))
        given |= set(re.findall(r'_nack\(identity, \w+, "(\w+)"', source))
        if name in ("rank_machine.py", "admission.py", "inspection.py"):
            given |= set(re.findall(r'(?:return |Flaw\()"(\w+)", ', source))
            given |= set(re.findall(r'^[A-Z]+(?:: Final)? = "(\w+)"$', source, re.M))
    given |= set(re.findall(r'MessageError\("(\w+)" if .* else "(\w+)"', sources["codec.py"])[0])
    assert {word.strip("`") for word, _, _ in rows(section("Refusals"))} == given


def _provocations() -> dict[str, list[bytes]]:
    """For each word of the refusals, frames that a rank refuses with it; it has given ticket 0 to the sender."""
    said = {said.kind: said for said in EXCHANGE if said.by_producer}
    ready, result, hello = said["READY"].stated | {"seq": 50}, said["RESULT"].stated | {"seq": 50}, said["HELLO"].stated
    pixels = bytes(said["RESULT"].pixels or b"")
    pack = msgpack.packb
    black = {"crc32": zlib.crc32(bytes(12))}
    return {
        "oversize": [b"\x00" * (2**20 + 1)],
        "truncated": [pack(ready)[:-1]],
        "malformed": [pack(ready | {"run": "x" * 8193})],
        "trailing_bytes": [pack(ready) + b"\x00"],
        "not_utf8": [pack(ready).replace(b"demo", b"dem\xff")],
        "extension_type": [pack(ready | {"seq": msgpack.ExtType(1, b"1")})],
        "duplicate_key": [b"\x88" + pack(ready)[1:] + b"\xa1v\x01"],
        "nesting": [pack(ready | {"seq": [[[[[[1]]]]]]})],
        "too_long": [pack(ready | {"seq": [0] * 4097})],
        "too_many_values": [pack(ready | {"seq": [[0] * 4096] * 8})],
        "unknown_type": [pack(ready | {"t": "STEADY"})],
        "missing_field": [pack({key: value for key, value in ready.items() if key != "credit_bytes"})],
        "unknown_field": [pack(ready | {"colour": 1})],
        "wrong_type": [pack(ready | {"seq": None})],
        "bad_value": [pack(ready | {"credit_groups": -1})],
        "frame_count": [pack(ready), b"more"],
        "direction": [pack({key: ready[key] for key in ("v", "run", "inc", "seq")} | {"t": "CANCEL", "attempts": []})],
        "trace": [pack(said["TRACE"].stated | {"seq": 50})],
        "sequence": [pack(ready | {"seq": 2})],
        "life": [pack(ready | {"inc": 6})],
        "unknown_producer": [pack(ready)],
        "stale": [pack(result | {"attempt": 1}), pixels],
        "shape": [pack(result | {"shape": [2, 2, 1, 3]}), pixels],
        "codec": [pack(result | {"codec": "jpeg", "sizes": [12]}), pixels],
        "jpeg": [pack(result | {"codec": "jpeg", "sizes": [11], "crc32": zlib.crc32(pixels[1:])}), pixels[1:]],
        "candidates": [pack(result | {"candidates": [1], "num_made": 2}), pixels],
        "size": [pack(result), pixels + b"\x00"],
        "checksum": [pack(result), b"\x00" + pixels[1:]],
        "blank": [pack(result | black), bytes(12)],
        "version": [pack(ready | {"v": 2})],
        "model": [pack(hello | {"manifest": hello["manifest"] | {"model_digest": "00"}})],
        "crowd": [pack(hello)],
        "scorer": [pack(hello)],
        "engine": [pack(hello | {"manifest": hello["manifest"] | {"dtype": "bfloat16"}})],
    }


PROVOCATIONS = _provocations()


@pytest.mark.parametrize(
    ("word", "answer"), [(word.strip("`"), answer) for word, _, answer in rows(section("Refusals"))]
)
def test_every_refusal_is_answered_as_the_page_says(word: str, answer: str) -> None:
    told = {said.kind: decode(said.frame)[1] for said in EXCHANGE}
    tickets_message = told["TICKETS"]
    assert isinstance(tickets_message, messages.Tickets)
    machine = _machine("demo", 7, ("tcp://127.0.0.1:5599",), Expectation(same_engine=True))
    machine.plan(tickets_message.tickets[0])
    for said in EXCHANGE[:3]:
        if said.by_producer:
            header, message = decode(said.frame)
            if word == "jpeg" and isinstance(message, messages.Hello):
                message = replace(message, manifest=replace(message.manifest, codec="jpeg-92"))
            machine.on_message(b"p", header, message, None, 0.0)
    if word == "scorer":
        machine.expect(Expectation(filters=True))
    frames = PROVOCATIONS[word]
    stream = GroupStream(cast(RankSocket, None), machine, StreamConfig())
    sender = b"stranger" if word in ("unknown_producer", "crowd") else b"p"
    if word == "crowd":
        for number in range(limits.MAX_PRODUCERS - 1):
            machine.on_message(bytes([1, *number.to_bytes(2)]), *decode(EXCHANGE[0].frame), None, 0.0)
    actions = stream._hear(sender, stream._read(sender, [memoryview(frame) for frame in frames]), 1.0)
    assert sum(count for (reason, _), count in machine.rejects.counts.items() if reason == word) == 1
    [reply] = [action.message for action in actions if isinstance(action, Send) and action.message.kind != "TICKETS"]
    if answer == "REJECT":
        assert isinstance(reply, messages.Reject)
        return
    assert isinstance(reply, messages.Nack)
    assert reply.reason.startswith(f"{word}: ")
    assert reply.index == (0 if answer.startswith("NACK for its ticket") else -1)
    assert reply.retryable == (not re.search(r"^NACK.*?, not retryable", answer))


def test_the_rules_quote_the_patience_that_the_code_has() -> None:
    patience, text = Patience(), " ".join((section("Rules") + section("States")).split())
    assert patience.deadline_factor == 4
    assert "4 times the 95th percentile" in text
    assert f"{patience.cold_start_s:.0f} s for one that has finished nothing yet" in text
    assert patience.hedge_factor == 2
    assert "twice the fleet's 95th percentile" in text
    assert f"until {patience.hedge_after_groups} groups have come, after three leases" in text
    assert f"After {patience.max_attempts} failures a ticket is quarantined" in text
    assert patience.max_quarantined == 8
    assert "eight quarantined" in text
    assert f"{patience.max_bad_results} broken groups in a row" in text


# --- seeds and digests --------------------------------------------------------------------------------------------


def test_the_worked_seeds_are_blake2b_and_the_code_s() -> None:
    table = [row for row in rows(section("Seeds and digests")) if len(row) == 4]
    assert [row[0].split(",")[0].strip("`") for row in table] == ["prompt", "group", "image", "image"]
    for parts, hashed, digest, seed in table:
        text = "\x1f".join(re.findall("`([^`]*)`", parts)).encode()
        assert text.hex() == hashed.strip("`")
        blake = hashlib.blake2b(text, digest_size=8, person=b"penstock" + bytes(8)).hexdigest()
        assert blake == digest.strip("`")
        assert int(blake, 16) // 2 == int(seed)
    prompt, group, *images = (int(row[3]) for row in table)
    assert tickets.prompt_id("a red fox") == prompt
    assert tickets.group_seed(0, prompt, 0) == group
    assert [tickets.image_seed(group, number) for number in (0, 1)] == images
    assert next(s for s in EXCHANGE if s.kind == "TICKETS").stated["tickets"][0]["recipe"]["seed"] == group


def test_the_worked_manifest_digest_is_sha256_and_the_code_s() -> None:
    text = section("Seeds and digests")
    [promise] = re.findall(r"```json\n(.*)\n```", text)
    [digest] = re.findall(r"SHA-256: `([0-9a-f]{64})`", text)
    assert hashlib.sha256(promise.encode()).hexdigest() == digest
    stated = EXCHANGE[0].stated["manifest"]
    assert json.loads(promise) == {key: value for key, value in stated.items() if key != "model"}
    assert Manifest(**stated).digest == digest


def test_a_digest_writes_what_is_beyond_ascii_as_the_page_says() -> None:
    stated = EXCHANGE[0].stated["manifest"] | {"device": "Zürich"}
    promise = (
        '{"backend": "eager", "batch_images": 1, "codec": "raw", "device": "Z\\u00fcrich", "dtype": "float32", '
        '"model_digest": "9f86d081", "scheduler": "DDIMScheduler", "scorer": "", "settings": {"vae": "full"}, '
        '"versions": {"torch": "2.13.0"}}'
    )
    assert Manifest(**stated).digest == hashlib.sha256(promise.encode()).hexdigest()
