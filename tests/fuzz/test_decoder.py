"""The quick part of the decoder's fuzzing, the kept corpus, and the fuzzer's own ability to fail."""

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.protocol import codec
from penstock.protocol.errors import MessageError
from penstock.protocol.messages import MESSAGE_TYPES
from tests.fuzz.decoder import Findings, fuzz, make_mutator, read_corpus, throw_all

CORPUS = read_corpus()


def test_the_corpus_has_every_message_and_stays_small() -> None:
    assert MESSAGE_TYPES.keys() <= CORPUS.keys()
    assert sum(map(len, CORPUS.values())) < 200_000


@pytest.mark.parametrize("name", CORPUS)
def test_a_kept_frame_is_still_judged_as_its_name_says(name: str) -> None:
    if name in MESSAGE_TYPES:
        assert codec.decode(CORPUS[name])[1].kind == name
    elif name.startswith("accepted"):
        codec.decode(CORPUS[name])
    else:
        with pytest.raises(MessageError) as caught:
            codec.decode(CORPUS[name])
        assert caught.value.reason == name.split("-")[1]


def test_some_thousand_messages_do_no_harm() -> None:
    findings = fuzz(5_000, seed=1)
    assert findings.misses == []
    assert findings.outcomes.total() == 5_000
    # A fuzzer whose frames are all refused at the door, or all fine, tests nothing.
    assert findings.outcomes.keys() >= MESSAGE_TYPES.keys()
    assert len(findings.outcomes.keys() - MESSAGE_TYPES.keys()) >= 12


def test_the_same_seed_throws_the_same_frames() -> None:
    one, other = (make_mutator(3) for _ in range(2))
    assert [one.frame() for _ in range(200)] == [other.frame() for _ in range(200)]


@given(st.sampled_from(sorted(CORPUS)), st.sampled_from(sorted(CORPUS)), st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_splice_of_two_kept_frames_raises_anything_but_a_message_error(
    one: str, other: str, data: st.DataObject
) -> None:
    head = CORPUS[one][: data.draw(st.integers(0, len(CORPUS[one])))]
    tail = CORPUS[other][data.draw(st.integers(0, len(CORPUS[other]))) :]
    try:
        codec.decode(head + tail)
    except MessageError:
        return


def _message(kind: str, **changes: object) -> bytes:
    packed: bytes = msgpack.packb(msgpack.unpackb(CORPUS[kind]) | changes)
    return packed


@pytest.mark.parametrize(
    ("lost", "frame", "found"),
    [
        ("MAX_LIST_LENGTH", _message("STARTED", attempts=[{"index": 1, "attempt": 0}] * 4097), "list of 4097 entries"),
        ("MAX_STRING_BYTES", _message("BYE", reason="x" * 8193), "a string of 8193 bytes"),
        ("isfinite", _message("RESULT", seconds=float("inf")), "not finite"),
        ("_unique", b"\x87" + CORPUS["BYE"][1:] + b"\xa1v\x04", "a key given twice"),
        ("MessageError", b"\xc1", "raised"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_decoder_that_has_lost_a_check_is_found_out(
    monkeypatch: pytest.MonkeyPatch, lost: str, frame: bytes, found: str
) -> None:
    broken = {"isfinite": lambda _: True, "_unique": dict, "MessageError": lambda *_: RuntimeError()}
    monkeypatch.setattr(codec, lost, broken.get(lost, 1 << 20))
    findings = Findings()
    throw_all([frame], findings)
    assert any(found in miss for miss in findings.misses), findings.misses


def test_a_decoder_that_hoards_or_wastes_memory_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hoard: list[bytearray] = []
    monkeypatch.setattr(codec, "_check_structure", lambda frame: hoard.append(bytearray(9 << 20)))
    misses = fuzz(200, seed=1).misses
    assert any("allocated" in miss for miss in misses)
    assert any("a batch left" in miss for miss in misses)
    assert any("bytes resident" in miss for miss in misses)
