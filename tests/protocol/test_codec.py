"""The codec: what it writes it reads, and whatever else arrives ends as a MessageError with the right word.

Hostile frames are built with msgpack itself or byte by byte from its specification, never with the codec.
"""

import random
import tracemalloc
from dataclasses import fields, replace
from typing import Any, get_args, get_origin, get_type_hints

import msgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from penstock.protocol.codec import decode, encode
from penstock.protocol.errors import MessageError, VersionError
from penstock.protocol.limits import (
    MAX_CANDIDATES,
    MAX_GUIDANCE_SCALE,
    MAX_HEADER_BYTES,
    MAX_IMAGE_SIDE,
    MAX_IMAGES_PER_GROUP,
    MAX_INFERENCE_STEPS,
    MAX_INT,
    MAX_LIST_LENGTH,
    MAX_NAME_LENGTH,
    MAX_NESTING,
    MAX_PER_IMAGE_VALUES,
    MAX_PROMPT_BYTES,
    MAX_STRING_BYTES,
    MAX_TICKETS_PER_MESSAGE,
    MAX_VALUES,
    PROTOCOL_VERSION,
)
from penstock.protocol.messages import (
    MESSAGE_TYPES,
    Bye,
    Cancel,
    Drain,
    Header,
    Heartbeat,
    Hello,
    Message,
    Nack,
    Reject,
    Result,
    Started,
    Tickets,
    Welcome,
)
from penstock.protocol.tickets import Attempt, Manifest, Recipe, Ticket
from penstock.protocol.watching import Status, Trace

DIGESTS = st.text("0123456789abcdef", min_size=1, max_size=64)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)
KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=40, max_size=40)
NATURAL = st.integers(0, 2**63 - 1)
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: NATURAL,
    float: st.floats(0, allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
}
SHARES = st.floats(0, 1)
SIDES = st.integers(8, MAX_IMAGE_SIDE)


@st.composite
def _choices(draw: st.DrawFn) -> dict[str, Any]:
    """How many images, of which guidance, and how they are chosen."""
    m = draw(st.integers(1, MAX_IMAGES_PER_GROUP))
    scales = st.integers(0, 1000 * MAX_GUIDANCE_SCALE).map(lambda thousandths: thousandths / 1000)
    choice: dict[str, Any] = {"num_images": m, "guidance_scales": (draw(scales),)}
    if draw(st.booleans()):
        choice["guidance_scales"] = (*choice["guidance_scales"], *[draw(scales)] * (m - 1))
    match draw(st.integers(0, 2)):
        case 1:
            first, stride = draw(st.integers(0, 1000)), draw(st.sampled_from([-1, 1, 3]))
            choice["candidates"] = tuple(abs(first + MAX_IMAGES_PER_GROUP + stride * image) for image in range(m))
        case 2:
            first = draw(st.integers(m, MAX_CANDIDATES))
            choice |= {"scorer_digest": draw(DIGESTS), "min_score": draw(st.floats(-1, 1)), "num_candidates": first}
            choice["max_candidates"] = draw(st.integers(first, MAX_CANDIDATES))
    return choice


def _recipe(interval: tuple[float, float], native: tuple[int, int], choice: dict[str, Any], **recipe: Any) -> Recipe:
    start, stop = sorted(interval)
    sizes = {"native_height": native[0], "native_width": native[1]}
    return Recipe(guidance_start=start, guidance_stop=stop, **sizes, **choice, **recipe)


RECIPES = st.builds(
    _recipe,
    interval=st.tuples(SHARES, SHARES),
    native=st.just((0, 0)) | st.tuples(SIDES, SIDES),
    prompt=TEXT.filter(lambda text: bool(text.strip())),
    seed=NATURAL,
    choice=_choices(),
    guidance_rescale=SHARES,
    num_inference_steps=st.integers(1, 10_000),
    scheduler=NAMES,
    height=st.integers(1, MAX_IMAGE_SIDE),
    width=st.integers(1, MAX_IMAGE_SIDE),
    model_digest=DIGESTS,
)
TICKETS = st.builds(
    Ticket,
    index=NATURAL,
    rank=NATURAL,
    attempt=NATURAL,
    need_by_step=NATURAL,
    stand_in=NATURAL,
    probe=st.booleans(),
    recipe=RECIPES,
)
ATTEMPTS = st.builds(Attempt, index=NATURAL, attempt=NATURAL)

MANIFESTS = st.builds(
    Manifest,
    model=NAMES,
    model_digest=DIGESTS,
    scheduler=NAMES,
    dtype=NAMES,
    backend=NAMES,
    device=NAMES,
    batch_images=st.integers(1, 2**63 - 1),
    settings=st.dictionaries(NAMES, NAMES, max_size=4),
    codec=st.sampled_from(["raw", "jpeg-1", "jpeg-92", "jpeg-100"]),
    scorer=st.just("") | DIGESTS,
    versions=st.dictionaries(NAMES, NAMES, max_size=4),
)


def _strategy(hint: Any) -> st.SearchStrategy[Any]:
    if hint is Ticket:
        return TICKETS
    if hint is Manifest:
        return MANIFESTS
    if hint is Attempt:
        return ATTEMPTS
    if get_origin(hint) is tuple:
        return st.lists(_strategy(get_args(hint)[0]), max_size=5).map(tuple)
    if get_origin(hint) is dict:
        return st.dictionaries(TEXT, TEXT, max_size=4)
    return SCALARS[hint]


def _instances(cls: type[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls)
    strategies = {field.name: _strategy(hints[field.name]) for field in fields(cls)}
    strategies |= SPECIAL.get(cls, {})
    return st.builds(cls, **strategies)


SPECIAL: dict[type[Any], dict[str, st.SearchStrategy[Any]]] = {
    Hello: {"producer": NAMES},
    Welcome: {
        "rank": st.just(1),
        "world_size": st.just(2),
        "endpoints": st.tuples(TEXT, TEXT),
        "keys": st.just(()) | st.tuples(KEYS, KEYS),
        "heartbeat_ms": st.integers(1, 10**6),
        "lease_ms": st.integers(1, 10**6),
    },
    Nack: {"index": st.integers(-1, 2**63 - 1)},
    Status: {
        **{name: st.floats(0, 1e30) for name in ("busy_s", "unfinished_s", "flops")},
        "matrix_flops_per_s": st.just(0.0) | st.floats(1, 1e30),
    },
    Trace: {
        **{name: st.just(("encode", "send")) for name in ("stages", "threads")},
        "flows": st.tuples(st.integers(0, 3), st.integers(0, 3)),
        "events": st.lists(
            st.tuples(
                *(st.integers(0, 1), st.integers(0, 2**62), st.integers(0, 2**62)),
                *(st.integers(-1, 2**63 - 1), NATURAL),
            ),
            max_size=4,
        ).map(lambda events: tuple(number for event in events for number in event)),
    },
    Result: {
        "candidates": st.lists(st.integers(0, MAX_CANDIDATES - 1), max_size=5, unique=True).map(tuple),
        "num_made": st.integers(0, MAX_CANDIDATES),
        "num_unsatisfied": st.integers(0, MAX_CANDIDATES),
        "shape": st.tuples(*(st.integers(1, side) for side in (1024, 8192, 8192)), st.just(3)),
        "codec": st.sampled_from(["raw", "jpeg"]),
        "sizes": st.lists(st.integers(1, 2**63 - 1), max_size=5).map(tuple),
        "crc32": st.integers(0, 2**32 - 1),
    },
}
"""Fields that may not hold every value of their type."""

MESSAGES: st.SearchStrategy[Message] = st.one_of(*(_instances(cls) for cls in MESSAGE_TYPES.values()))
HEADERS = st.builds(Header, run=TEXT, incarnation=NATURAL, seq=NATURAL)

RECIPE = Recipe(
    prompt="a red fox",
    seed=7,
    num_images=4,
    guidance_scales=(2.0,),
    guidance_rescale=0.5,
    guidance_start=0.25,
    guidance_stop=0.75,
    num_inference_steps=8,
    scheduler="default",
    native_height=64,
    native_width=64,
    height=32,
    width=32,
    model_digest="ab" * 32,
)
EXAMPLES: list[Message] = [
    Hello(
        producer="p",
        manifest=Manifest(
            model="tiny",
            model_digest="ab",
            scheduler="DDIMScheduler",
            dtype="float32",
            backend="eager",
            device="cpu",
            batch_images=8,
            settings={"vae": "full"},
            versions={"torch": "2"},
        ),
    ),
    Tickets(tickets=(Ticket(index=3, rank=0, recipe=RECIPE), Ticket(index=4, rank=0, recipe=RECIPE))),
    Result(index=3, attempt=0, shape=(4, 32, 32, 3), crc32=77, seconds=0.5),
    Heartbeat(held=(Attempt(1, 0), Attempt(2, 3))),
    Cancel(attempts=(Attempt(1, 0),)),
    Drain(returned=(Attempt(2, 3),), reason="SIGTERM"),
    Nack(index=-1, attempt=0, reason="why", retryable=True),
]


STATUS = {"clock_ns": 1, "images": 1, "busy_s": 1.0, "unfinished_s": 1.0, "flops": 1.0, "matrix_flops_per_s": 1.0}
CLOCK = {"echo_ns": 1, "heard_ns": 1, "sent_ns": 1}
TRACE = {"uncertainty_ns": 1, "stages": ["a"], "threads": ["b"], "flows": [0], "events": [0, 1, 1, -1, 0] * 512}
WELCOME = {"rank": 0, "world_size": 1, "endpoints": ["e"], "keys": [], "heartbeat_ms": 1, "lease_ms": 1, "trace": False}


def _envelope(kind: str) -> dict[str, object]:
    """What all messages have, as plain values."""
    return {"v": PROTOCOL_VERSION, "t": kind, "run": "r", "inc": 1, "seq": 2}


def _nack(**changes: object) -> dict[str, object]:
    """A valid NACK as plain values, changed; a value of `...` takes the key away."""
    plain = _envelope("NACK") | {"index": 5, "attempt": 0, "reason": "why", "retryable": True}
    return {key: value for key, value in (plain | changes).items() if value is not ...}


def _reason(frame: bytes) -> str:
    with pytest.raises(MessageError) as caught:
        decode(frame)
    text = str(caught.value)
    assert text.startswith(f"{caught.value.reason}: ")
    assert len(text) > len(caught.value.reason) + 5, "the error must say more than its reason word"
    assert "\n" not in text
    return caught.value.reason


@given(MESSAGES, HEADERS)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_message_comes_back_as_it_was(message: Message, header: Header) -> None:
    frame = encode(message, header)
    assert decode(frame) == (header, message)
    assert decode(memoryview(frame)) == (header, message)


@pytest.mark.parametrize("kind", sorted(MESSAGE_TYPES))
def test_every_message_of_the_list_is_covered(kind: str) -> None:
    assert MESSAGE_TYPES[kind].kind == kind


def test_the_wire_form_is_plain_msgpack_that_any_language_reads() -> None:
    header, message = Header(run="r", incarnation=1, seq=2), Nack(index=5, attempt=0, reason="why", retryable=True)
    assert msgpack.unpackb(encode(message, header)) == _nack()
    assert decode(msgpack.packb(_nack())) == (header, message)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.kind)
def test_a_truncated_message_is_refused_at_every_length(message: Message) -> None:
    frame = encode(message, Header(run="run", incarnation=1, seq=2))
    for length in range(len(frame)):
        assert _reason(frame[:length]) == "truncated"


@pytest.mark.parametrize("tail", [b"\x00", b"\xc0", b"\xc1", b"\x80", b"xyz" * 1000])
def test_trailing_bytes_are_refused(tail: bytes) -> None:
    assert _reason(msgpack.packb(_nack()) + tail) == "trailing_bytes"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        pytest.param(b"", "truncated", id="empty"),
        pytest.param(b"\xc1", "malformed", id="the byte that msgpack never uses"),
        pytest.param(b"\xc0", "malformed", id="nil"),
        pytest.param(b"\x05", "malformed", id="an integer"),
        pytest.param(msgpack.packb([1, 2]), "malformed", id="a list"),
        pytest.param(b"\xdf\xff\xff\xff\xff", "too_long", id="map32 of 4 billion"),
        pytest.param(b"\xdd\xff\xff\xff\xff", "too_long", id="array32 of 4 billion"),
        pytest.param(b"\x81\xa1v\xdb\xff\xff\xff\xff", "truncated", id="str32 of 4 billion"),
        pytest.param(b"\x80", "missing_field", id="an empty map"),
        pytest.param(b"\x82\xa1v\x01\xa1v\x01", "duplicate_key", id="a key twice"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", "trailing_bytes", id="HTTP"),
        pytest.param(b"\x80\x04\x95\x00", "trailing_bytes", id="a pickle"),
    ],
)
def test_broken_bytes_are_refused_by_kind(frame: bytes, reason: str) -> None:
    assert _reason(frame) == reason


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(msgpack.ExtType(5, b""), id="empty"),
        pytest.param(msgpack.ExtType(5, b"1234"), id="fixext4"),
        pytest.param(msgpack.ExtType(5, b"123"), id="ext8"),
        pytest.param(msgpack.ExtType(5, b"x" * 70_000), id="ext32"),
        pytest.param(msgpack.Timestamp(1, 0), id="timestamp 32"),
        pytest.param(msgpack.Timestamp(1, 5), id="timestamp 64"),
        pytest.param(msgpack.Timestamp(-1, 5), id="timestamp 96"),
    ],
)
@pytest.mark.parametrize("place", ["field", "nested", "unknown field"])
def test_extension_types_and_timestamps_are_refused_by_name(value: object, place: str) -> None:
    changes: dict[str, object] = {
        "field": {"index": value},
        "nested": {"index": [{"a": value}]},
        "unknown field": {"extra": value},
    }[place]
    assert _reason(msgpack.packb(_nack(**changes))) == "extension_type"


def test_a_timestamp_as_the_whole_message_is_refused() -> None:
    assert _reason(msgpack.packb(msgpack.Timestamp(1, 0))) == "extension_type"


def test_a_duplicate_key_is_refused_at_any_depth_and_named() -> None:
    versions = b"\x82\xa1a\xa1x\xa1a\xa1y"
    frame = encode(EXAMPLES[0], Header()).replace(msgpack.packb({"torch": "2"}), versions)
    with pytest.raises(MessageError, match=r"^duplicate_key: .*'a'"):
        decode(frame)


@pytest.mark.parametrize(
    ("changes", "reason", "named"),
    [
        ({"colour": 1}, "unknown_field", "colour"),
        ({"": 1}, "unknown_field", "''"),
        ({"index": ...}, "missing_field", "index"),
        ({"run": ...}, "missing_field", "run"),
        ({"inc": ...}, "missing_field", "inc"),
        ({"seq": ...}, "missing_field", "seq"),
        ({"v": ...}, "missing_field", "v"),
        ({"t": ...}, "missing_field", "t"),
        ({"t": "ack"}, "unknown_type", "ack"),
        ({"t": "CANCEL_ALL"}, "unknown_type", "CANCEL_ALL"),
        ({"t": None}, "unknown_type", "None"),
        ({"t": ["NACK"]}, "unknown_type", "list"),
        ({"inc": -1}, "bad_value", "inc must be >= 0"),
        ({"seq": -1}, "bad_value", "seq must be >= 0"),
        ({"index": "5"}, "wrong_type", "index"),
        ({"index": 5.0}, "wrong_type", "index"),
        ({"index": True}, "wrong_type", "index"),
        ({"index": None}, "wrong_type", "index"),
        ({"index": [5]}, "wrong_type", "index"),
        ({"index": {}}, "wrong_type", "index"),
        ({"index": 2**63}, "bad_value", "index"),
        ({"index": -2}, "bad_value", "index"),
        ({"run": 5}, "wrong_type", "run"),
        ({"run": b""}, "wrong_type", "run"),
        ({"inc": "1"}, "wrong_type", "inc"),
        ({"seq": False}, "wrong_type", "seq"),
    ],
)
def test_a_wrong_header_or_field_is_refused_and_named(changes: dict[str, object], reason: str, named: str) -> None:
    frame = msgpack.packb(_nack(**changes))
    assert _reason(frame) == reason
    with pytest.raises(MessageError, match=named):
        decode(frame)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("seconds", float("nan"), "bad_value"),
        ("seconds", float("inf"), "bad_value"),
        ("seconds", float("-inf"), "bad_value"),
        ("seconds", True, "wrong_type"),
        ("seconds", "1.0", "wrong_type"),
        ("shape", 4, "wrong_type"),
        ("shape", [4, "32", 32, 3], "wrong_type"),
        ("shape", {"0": 4}, "wrong_type"),
        ("shape", [4, 2**63, 1, 3], "bad_value"),
        ("shape", [4, 32, 32], "bad_value"),
        ("shape", [4, 32, 32, 3, 1], "bad_value"),
        ("shape", [4, 0, 32, 3], "bad_value"),
        ("shape", [4, -1, 32, 3], "bad_value"),
        ("codec", "gif", "bad_value"),
        ("codec", "jpeg-92", "bad_value"),
        ("codec", 1, "wrong_type"),
        ("sizes", [100, 0], "bad_value"),
        ("sizes", [100, -1], "bad_value"),
        ("sizes", [2**63], "bad_value"),
        ("sizes", 100, "wrong_type"),
        ("crc32", -1, "bad_value"),
        ("crc32", 2**32, "bad_value"),
        ("seconds", -0.5, "bad_value"),
        ("index", -1, "bad_value"),
    ],
)
def test_a_result_with_impossible_figures_is_refused(field: str, value: object, reason: str) -> None:
    plain = msgpack.unpackb(encode(EXAMPLES[2], Header()))
    with pytest.raises(MessageError, match=rf"RESULT.*{field}"):
        decode(msgpack.packb(plain | {field: value}))
    assert _reason(msgpack.packb(plain | {field: value})) == reason


def test_an_integer_serves_as_a_number() -> None:
    plain = msgpack.unpackb(encode(EXAMPLES[2], Header())) | {"seconds": 3}
    _, message = decode(msgpack.packb(plain))
    assert isinstance(message, Result)
    assert isinstance(message.seconds, float)
    assert message.seconds == 3.0


@pytest.mark.parametrize(
    ("change", "reason", "named"),
    [
        ({"prompt": ""}, "bad_value", "prompt"),
        ({"prompt": "  \t"}, "bad_value", "prompt"),
        ({"num_images": 0}, "bad_value", "num_images"),
        ({"num_images": MAX_IMAGES_PER_GROUP + 1}, "bad_value", "num_images"),
        ({"height": 0}, "bad_value", "height"),
        ({"width": MAX_IMAGE_SIDE + 1}, "bad_value", "width"),
        ({"guidance_scales": [-1.0]}, "bad_value", "guidance_scales"),
        ({"guidance_scales": [float("nan")]}, "bad_value", r"guidance_scales\[0\]"),
        ({"guidance_scales": [2.0005]}, "bad_value", "guidance_scales"),
        ({"guidance_scales": [2.0, 2.0, 2.0]}, "bad_value", "guidance_scales"),
        ({"guidance_scales": 2.0}, "wrong_type", "guidance_scales"),
        ({"candidates": [0]}, "bad_value", "candidates"),
        ({"candidates": [-2, *range(1, 4)]}, "bad_value", "candidates"),
        ({"candidates": None}, "wrong_type", "candidates"),
        ({"scorer_digest": "AB"}, "bad_value", "scorer_digest"),
        ({"scorer_digest": "ab"}, "bad_value", "num_candidates"),
        ({"min_score": 0.5}, "bad_value", "need a scorer"),
        ({"max_candidates": 2**17}, "bad_value", "max_candidates"),
        ({"guidance_rescale": 2}, "bad_value", "guidance_rescale"),
        ({"guidance_rescale": "0.5"}, "wrong_type", "guidance_rescale"),
        ({"guidance_start": 0.76}, "bad_value", "guidance_stop"),
        ({"guidance_stop": float("inf")}, "bad_value", "guidance_stop"),
        ({"guidance_stop": True}, "wrong_type", "guidance_stop"),
        ({"native_height": 0}, "bad_value", "native_height and native_width"),
        ({"native_width": 7}, "bad_value", "native_width"),
        ({"native_width": 64.0}, "wrong_type", "native_width"),
        ({"num_inference_steps": 0}, "bad_value", "num_inference_steps"),
        ({"seed": -1}, "bad_value", "seed"),
        ({"model_digest": "AB"}, "bad_value", "model_digest"),
        ({"model_digest": ""}, "bad_value", "model_digest"),
        ({"scheduler": "x" * 201}, "bad_value", "scheduler"),
        ({"scheduler": "a\nb"}, "bad_value", "scheduler"),
        ({"loras": []}, "unknown_field", "loras"),
    ],
)
def test_a_ticket_with_a_bad_recipe_is_refused_by_place_and_rule(
    change: dict[str, object], reason: str, named: str
) -> None:
    plain = msgpack.unpackb(encode(EXAMPLES[1], Header()))
    plain["tickets"][1]["recipe"] |= change
    with pytest.raises(MessageError, match=rf"tickets\[1\]\.recipe.*{named}") as caught:
        decode(msgpack.packb(plain))
    assert caught.value.reason == reason


OF_A_FILTER = ("candidates", "scorer_digest", "min_score", "num_candidates", "max_candidates")
NEW_TO_RECIPES = ("guidance_rescale", "guidance_start", "guidance_stop", "native_height", "native_width", *OF_A_FILTER)


@pytest.mark.parametrize("field", NEW_TO_RECIPES)
def test_what_a_recipe_has_a_default_for_must_be_on_the_wire_nevertheless(field: str) -> None:
    plain = msgpack.unpackb(encode(EXAMPLES[1], Header()))
    del plain["tickets"][0]["recipe"][field]
    with pytest.raises(MessageError, match=rf"^missing_field: .*tickets\[0\]\.recipe lacks the field '{field}'"):
        decode(msgpack.packb(plain))


def test_integers_serve_for_shares_of_the_steps() -> None:
    plain = msgpack.unpackb(encode(EXAMPLES[1], Header()))
    plain["tickets"][0]["recipe"] |= {"guidance_rescale": 1, "guidance_start": 0, "guidance_stop": 1}
    message = decode(msgpack.packb(plain))[1]
    assert isinstance(message, Tickets)
    recipe = message.tickets[0].recipe
    assert (recipe.guidance_rescale, recipe.guidance_start, recipe.guidance_stop) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("field", ["settings", "versions"])
@pytest.mark.parametrize(
    ("value", "reason", "named"),
    [
        (..., "missing_field", r" lacks the field '{}'"),
        (["vae"], "wrong_type", r"\.{} must be a map"),
        ({"vae": 1}, "wrong_type", r"\.{}\.vae must be a string"),
        ({"vae": ""}, "bad_value", r": {}\.vae must have 1 to 200 characters"),
        ({f"{number}": "x" for number in range(65)}, "bad_value", r": {} must be at most 64, got 65"),
    ],
    ids=["missing", "list", "number", "empty", "many"],
)
def test_a_map_of_a_manifest_is_judged_entry_by_entry(field: str, value: object, reason: str, named: str) -> None:
    plain = msgpack.unpackb(encode(EXAMPLES[0], Header()))
    manifest = plain["manifest"] | {field: value}
    plain["manifest"] = {key: entry for key, entry in manifest.items() if entry is not ...}
    with pytest.raises(MessageError, match=rf"HELLO\.manifest{named.format(field)}") as caught:
        decode(msgpack.packb(plain))
    assert caught.value.reason == reason


ATTEMPT_LISTS = {"STARTED": "attempts", "HEARTBEAT": "held", "CANCEL": "attempts", "DRAIN": "returned"}


@pytest.mark.parametrize("kind", ATTEMPT_LISTS)
@pytest.mark.parametrize(
    ("entry", "reason", "named"),
    [
        (3, "wrong_type", r"\[1\] must be a map"),
        ([3, 0], "wrong_type", r"\[1\] must be a map"),
        ({"index": 3}, "missing_field", r"\[1\] lacks the field 'attempt'"),
        ({"index": 3, "attempt": 0, "rank": 1}, "unknown_field", r"\[1\] has no field 'rank'"),
        ({"index": 3, "attempt": "0"}, "wrong_type", r"\[1\]\.attempt"),
        ({"index": 2**63, "attempt": 0}, "bad_value", r"\[1\]\.index"),
        ({"index": -1, "attempt": 0}, "bad_value", r"\[1\]: index"),
    ],
)
def test_a_list_of_attempts_is_judged_entry_by_entry(kind: str, entry: object, reason: str, named: str) -> None:
    field = ATTEMPT_LISTS[kind]
    plain = _envelope(kind) | {field: [{"index": 3, "attempt": 0}, entry]}
    if kind == "DRAIN":
        plain["reason"] = "SIGTERM"
    with pytest.raises(MessageError, match=rf"{kind}\.{field}{named}") as caught:
        decode(msgpack.packb(plain))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("x" * MAX_PROMPT_BYTES, None),
        ("x" * (MAX_PROMPT_BYTES + 1), "malformed"),
        ("\u00e9" * (MAX_PROMPT_BYTES // 2), None),
        ("\u00e9" * (MAX_PROMPT_BYTES // 2) + "x", "malformed"),
    ],
)
def test_a_prompt_is_limited_by_its_bytes(prompt: str, reason: str | None) -> None:
    plain = msgpack.unpackb(encode(EXAMPLES[1], Header()))
    plain["tickets"][0]["recipe"]["prompt"] = prompt
    if reason is None:
        message = decode(msgpack.packb(plain))[1]
        assert isinstance(message, Tickets)
        assert message.tickets[0].recipe.prompt == prompt
    else:
        assert _reason(msgpack.packb(plain)) == reason


def test_the_largest_message_that_a_rank_sends_is_within_the_limits() -> None:
    recipe = Recipe(
        prompt="\u00e9" * (MAX_PROMPT_BYTES // 2),
        seed=MAX_INT,
        num_images=MAX_IMAGES_PER_GROUP,
        guidance_scales=(7.5,),
        guidance_rescale=0.7,
        guidance_start=0.1,
        guidance_stop=0.9,
        num_inference_steps=MAX_INFERENCE_STEPS,
        scheduler="x" * MAX_NAME_LENGTH,
        native_height=MAX_IMAGE_SIDE,
        native_width=MAX_IMAGE_SIDE,
        height=MAX_IMAGE_SIDE,
        width=MAX_IMAGE_SIDE,
        model_digest="f" * 64,
    )
    ticket = Ticket(index=MAX_INT, rank=MAX_INT, attempt=MAX_INT, need_by_step=MAX_INT, recipe=recipe)
    message = Tickets(tickets=(ticket,) * MAX_TICKETS_PER_MESSAGE)
    assert decode(encode(message, Header()))[1] == message


def test_tickets_with_a_value_for_each_image_are_as_many_as_a_message_can_hold() -> None:
    example = EXAMPLES[1]
    assert isinstance(example, Tickets)
    recipe = replace(
        example.tickets[0].recipe,
        num_images=MAX_IMAGES_PER_GROUP,
        guidance_scales=(2.0,) * MAX_IMAGES_PER_GROUP,
        candidates=tuple(range(MAX_CANDIDATES - MAX_IMAGES_PER_GROUP, MAX_CANDIDATES)),
    )
    ticket = replace(example.tickets[0], recipe=recipe)
    most = MAX_PER_IMAGE_VALUES // (2 * MAX_IMAGES_PER_GROUP)
    message = Tickets(tickets=(ticket,) * most)
    assert decode(encode(message, Header()))[1] == message
    with pytest.raises(ValueError, match="guidance_scales and candidates of all tickets must be at most 16384"):
        Tickets(tickets=(ticket,) * (most + 1))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("READY", {"credit_groups": -1, "credit_bytes": 0}),
        *(("STATUS", STATUS | {name: -1}) for name in STATUS),
        *(("STATUS", STATUS | {name: 1.1e30}) for name in ("busy_s", "unfinished_s", "flops", "matrix_flops_per_s")),
        ("STATUS", STATUS | {"matrix_flops_per_s": 1e-300}),
        ("STATUS", STATUS | {"flops": float("nan")}),
        *(("CLOCK", CLOCK | {name: -1}) for name in CLOCK),
        *(
            ("TRACE", TRACE | change)
            for change in (
                {"uncertainty_ns": -1},
                {"stages": ["a"] * 65, "threads": ["a"] * 65, "flows": [0] * 65},
                *({"stages": ["a", "b"]}, {"threads": []}, {"flows": []}, {"flows": [4]}, {"flows": [-1]}),
                *({"stages": [""]}, {"threads": ["a\nb"]}, {"stages": ["x" * 201]}),
                *({"events": event} for event in ([0] * 4, [0] * 6, [1, 0, 0, 0, 0], [-1, 0, 0, 0, 0])),
                *({"events": event} for event in ([0, -1, 0, 0, 0], [0, 0, -1, 0, 0], [0, 0, 0, 0, -1])),
                {"events": [0, 2**63 - 1, 1, 0, 0]},
                {"events": [0] * 5 * 513},
            )
        ),
        ("READY", {"credit_groups": 0, "credit_bytes": -1}),
        *(
            ("WELCOME", WELCOME | change)
            for change in (
                *({"rank": 1}, {"rank": -1}, {"world_size": 0}, {"world_size": 2}, {"endpoints": []}),
                *({"heartbeat_ms": 0}, {"lease_ms": 0}, {"heartbeat_ms": -1}),
                *({"keys": keys} for keys in (["k" * 40] * 2, ["k" * 39], ["k" * 41], [""])),
            )
        ),
    ],
)
def test_a_figure_outside_its_range_is_refused(kind: str, fields: dict[str, object]) -> None:
    assert _reason(msgpack.packb(_envelope(kind) | fields)) == "bad_value"


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "\x1b[2J", "a\u2028b", "\u202eb"])
def test_a_name_that_could_forge_a_line_of_the_log_is_refused(name: str) -> None:
    plain = msgpack.unpackb(encode(EXAMPLES[0], Header()))
    assert _reason(msgpack.packb(plain | {"producer": name})) == "bad_value"
    plain["manifest"]["model"] = name
    assert _reason(msgpack.packb(plain)) == "bad_value"


@pytest.mark.parametrize(("world_size", "taken"), [(1024, True), (1025, False)])
def test_a_run_has_no_more_ranks_than_a_producer_has_sockets(world_size: int, taken: bool) -> None:
    fields = WELCOME | {"endpoints": ["e"] * world_size}
    frame = msgpack.packb(_envelope("WELCOME") | fields | {"world_size": world_size})
    if taken:
        assert decode(frame)[1].kind == "WELCOME"
    else:
        assert _reason(frame) == "bad_value"


def test_as_many_events_as_a_trace_may_hold_are_read() -> None:
    message = decode(msgpack.packb(_envelope("TRACE") | TRACE))[1]
    assert isinstance(message, Trace)
    assert message.events == (0, 1, 1, -1, 0) * 512


@pytest.mark.parametrize(
    ("value", "reason"), [(True, "wrong_type"), (1.0, "wrong_type"), (-2, "bad_value"), (2**63, "bad_value")]
)
def test_one_wrong_integer_among_thousands_is_refused_with_its_place(value: object, reason: str) -> None:
    events = [0, 1, 1, -1, 0] * 500
    events[1234] = value  # type: ignore[call-overload]
    with pytest.raises(MessageError, match=r"TRACE\.events\[1234\]") as caught:
        decode(msgpack.packb(_envelope("TRACE") | TRACE | {"events": events}))
    assert caught.value.reason == reason


def test_more_tickets_than_a_message_may_hold_are_refused() -> None:
    plain = msgpack.unpackb(encode(EXAMPLES[1], Header()))
    plain["tickets"] = plain["tickets"][:1] * 65
    assert _reason(msgpack.packb(plain)) == "bad_value"
    plain["tickets"] = plain["tickets"][:64]
    assert decode(msgpack.packb(plain))[1].kind == "TICKETS"


# --- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "shown"),
    [
        (0, "0"),
        (PROTOCOL_VERSION + 1, str(PROTOCOL_VERSION + 1)),
        ("1", "'1'"),
        (None, "None"),
        (1.5, "1.5"),
        (True, "True"),
        (1.0, "1.0"),
        ([1], "list"),
        ({"major": 1}, "dict"),
        ("x" * 8000, "'" + "x" * 40 + "'"),
    ],
)
def test_another_version_is_refused_with_both_versions(version: object, shown: str) -> None:
    with pytest.raises(VersionError) as caught:
        decode(msgpack.packb(_nack(v=version)))
    assert caught.value.theirs == shown
    assert caught.value.reason == "version"
    assert f"version {shown}, this side" in str(caught.value)
    assert str(PROTOCOL_VERSION) in str(caught.value)


def test_another_version_is_recognised_though_it_has_another_envelope_and_other_messages() -> None:
    with pytest.raises(VersionError):
        decode(msgpack.packb({"v": PROTOCOL_VERSION + 1, "t": "GREETING", "fence": [1, 2]}))


def test_reject_is_read_in_any_version() -> None:
    plain = _envelope("REJECT") | {"v": 99, "reason": "too old"}
    _, message = decode(msgpack.packb(plain))
    assert message == Reject(reason="too old")


def test_reject_of_a_later_version_is_read_without_the_fields_of_ours() -> None:
    _, message = decode(msgpack.packb({"v": 99, "t": "REJECT", "reason": "too old", "fence": 3}))
    assert message == Reject(reason="too old")


@pytest.mark.parametrize("depth", [40, 600])
def test_a_message_of_another_version_is_walked_like_any(depth: int) -> None:
    """Nothing else of it is checked, so nothing else would refuse it."""
    frame = b"\x83\xa1v\x63\xa1t\xa3XYZ\xa1a" + b"\x91" * depth + b"\x01"
    assert _reason(frame) == "nesting"
    reject = b"\x84\xa1v\x63\xa1t\xa6REJECT\xa6reason\xa3old\xa1a" + b"\x91" * depth + b"\x01"
    assert _reason(reject) == "nesting"


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_bytes", [200, 1000, 1024, 1026, 5115, 16384])
@pytest.mark.parametrize(
    "header", [b"\xdc\x03\xff", b"\xdc\x10\x00", b"\xdd\x00\x00\x10\x00", b"\xdc\x04\x00", b"\xde\x04\x00\xa1a"]
)
def test_a_small_frame_that_claims_much_is_refused_for_little(header: bytes, num_bytes: int) -> None:
    """Each nested list claims its limit of entries, which msgpack would reserve at once."""
    frame = (b"\x81\xa1a" + header * (num_bytes // len(header)))[:num_bytes]
    tracemalloc.start()
    try:
        with pytest.raises(MessageError):
            decode(frame)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_an_oversize_header_is_refused_unread() -> None:
    frame = b"\xc0" * (MAX_HEADER_BYTES + 1)
    assert _reason(frame) == "oversize"


def test_a_long_string_is_refused_and_the_longest_allowed_passes() -> None:
    header, _ = decode(encode(EXAMPLES[1], Header(run="x" * MAX_STRING_BYTES)))
    assert header.run == "x" * MAX_STRING_BYTES
    assert _reason(encode(EXAMPLES[1], Header(run="x" * (MAX_STRING_BYTES + 1)))) == "malformed"


@pytest.mark.parametrize("kind", [Bye, Reject])
def test_a_long_reason_is_cut_by_who_sends_it_and_by_who_reads_it(kind: type[Bye] | type[Reject]) -> None:
    assert kind(reason="é" * 5000).reason == "é" * 1000
    frame = msgpack.packb({"v": PROTOCOL_VERSION, "t": kind.kind, "run": "", "inc": 0, "seq": 0, "reason": "é" * 4000})
    assert decode(frame)[1] == kind(reason="é" * 1000)


def test_a_long_list_is_refused_and_the_longest_allowed_passes() -> None:
    held = tuple(Attempt(MAX_INT - index, index) for index in range(MAX_LIST_LENGTH))
    assert decode(encode(Heartbeat(held=held), Header()))[1] == Heartbeat(held=held)
    assert _reason(encode(Heartbeat(held=(*held, Attempt(0, 0))), Header())) == "too_long"


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa0", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01"])
@pytest.mark.parametrize("depth", [MAX_NESTING, 50, 5_000, 100_000])
def test_deep_nesting_is_refused(opening: bytes, depth: int) -> None:
    # The message's own map is a level too, so MAX_NESTING further ones are one too many.
    frame = b"\x81\xa1x" + opening * depth + b"\xc0"
    assert _reason(frame) == "nesting"


def test_nesting_within_the_limit_is_judged_by_its_fields() -> None:
    frame = msgpack.packb(_nack(index=[[[[[1]]]]]))
    assert _reason(frame) == "wrong_type"


@pytest.mark.parametrize("place", [b"\x81\xa1t\xa2\xff\xfe", b"\x81\xa2\xc3\x28\x01", b"\x81\xa1t\xa3\xed\xa0\x80"])
def test_text_that_is_not_utf8_is_refused(place: bytes) -> None:
    assert _reason(place) == "not_utf8"


def _flood(item: bytes) -> bytes:
    """A header as large as is allowed, full of `item`, with no list longer than is allowed."""
    inner = b"\xdc\x0f\xff" + item * 4095
    return b"\x81\xa1x\xdc\x00\xff" + (inner * 255)[: MAX_HEADER_BYTES - 10]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\xdd\x7f\xff\xff\xff" + b"\x80" * 100, id="array32 header"),
        pytest.param(b"\x81\xa1v\xdf\x7f\xff\xff\xff", id="map32 header"),
        pytest.param(b"\x81\xa1v\xdb\x7f\xff\xff\xff", id="str32 header"),
        pytest.param(b"\x81\xa1v\xc6\x7f\xff\xff\xff", id="bin32 header"),
        pytest.param(b"\x81\xa1v\xc9\x7f\xff\xff\xff\x01", id="ext32 header"),
        pytest.param(b"\x81\xa1x\xdc\x10\x00" + b"\x80" * 4096, id="4096 empty maps"),
        pytest.param(b"\x91" * 1000, id="nesting"),
    ],
)
def test_a_small_hostile_header_costs_no_large_allocation(frame: bytes) -> None:
    with pytest.raises(MessageError):
        decode(frame)
    tracemalloc.start()
    try:
        with pytest.raises(MessageError):
            decode(frame)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * MAX_HEADER_BYTES


def test_values_are_counted_over_all_levels() -> None:
    # 8 lists of 4,095 are 8 + 8 x 4,095 = 32,768 values; with the five other keys and values they are too many.
    inner = [[0] * 4095] * 8
    assert _reason(msgpack.packb(_nack(index=inner))) == "too_many_values"
    assert MAX_VALUES == 8 + 8 * 4095
    assert _reason(msgpack.packb(_nack(index=inner[1:]))) == "wrong_type"


@pytest.mark.parametrize("key", ["v", "t"])
def test_an_error_does_not_write_out_what_it_shows(key: str) -> None:
    # Written out, each of these control characters takes four characters of four bytes each.
    frame = msgpack.packb({"v": PROTOCOL_VERSION, "t": "ACK"} | {key: ["\x01" * 8000 + "\U0001f98a"] * 100})
    tracemalloc.start()
    try:
        with pytest.raises(MessageError):
            decode(frame)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * MAX_HEADER_BYTES


@pytest.mark.parametrize("item", [b"\x80", b"\x90", b"\xa0"])
def test_a_flood_of_empty_values_costs_little_more_than_its_own_bytes(item: bytes) -> None:
    frame = _flood(item)
    tracemalloc.start()
    try:
        with pytest.raises(MessageError):
            decode(frame)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * MAX_HEADER_BYTES


# --- anything at all ------------------------------------------------------------------------------


def _decode_or_message_error(frame: bytes) -> None:
    try:
        header, message = decode(frame)
    except MessageError:
        return
    assert isinstance(header, Header)
    assert isinstance(message, tuple(MESSAGE_TYPES.values()))


@given(st.binary(max_size=300))
@example(b"\x81\xa1t\xc7\x00\xff")
@example(b"\x81\x90\xc0")
@example(b"\x81\xc4\x00\xc0")
@settings(max_examples=500, deadline=None)
def test_no_bytes_raise_anything_but_a_message_error(frame: bytes) -> None:
    _decode_or_message_error(frame)


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), TEXT, st.binary()),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
        max_leaves=12,
    ),
    st.sampled_from(["v", "t", "run", "inc", "seq", "tickets", "held", "manifest", "extra"]),
    st.sampled_from(EXAMPLES),
)
@settings(max_examples=300, deadline=None)
def test_no_value_in_any_place_raises_anything_but_a_message_error(value: object, key: str, message: Message) -> None:
    plain = msgpack.unpackb(encode(message, Header()))
    _decode_or_message_error(msgpack.packb(plain | {key: value}))


@given(st.sampled_from(EXAMPLES), st.integers(0, 2**32))
@settings(max_examples=500, deadline=None)
def test_no_mutation_of_a_good_message_raises_anything_but_a_message_error(message: Message, seed: int) -> None:
    rng = random.Random(seed)
    frame = bytearray(encode(message, Header(run="run", incarnation=1, seq=2)))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(frame))
        match rng.randrange(4):
            case 0:
                frame[at] = rng.randrange(256)
            case 1:
                frame[at] ^= 1 << rng.randrange(8)
            case 2:
                del frame[at : at + rng.randint(1, 5)]
                frame = frame or bytearray(b"\x00")
            case _:
                frame[at:at] = rng.randbytes(rng.randint(1, 5))
    _decode_or_message_error(bytes(frame))


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_started_attempts_survive_in_order(seed: int) -> None:
    rng = random.Random(seed)
    attempts = tuple(Attempt(rng.randrange(2**63), rng.randrange(2**63)) for _ in range(rng.randrange(64)))
    assert decode(encode(Started(attempts=attempts), Header()))[1] == Started(attempts=attempts)
