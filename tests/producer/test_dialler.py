"""Whom a producer dials: addresses at once and once, names at each of their addresses, and nobody waits for that."""

import threading
from collections.abc import Callable
from typing import cast

import pytest

from penstock.producer.dialler import Dialler
from penstock.protocol.addresses import look_up
from penstock.protocol.errors import EndpointError
from penstock.protocol.sockets import ProducerSockets

NAME = "tcp://train:5599"
FIRST, SECOND = "tcp://10.0.0.1:5599", "tcp://10.0.0.2:5599"


class Sockets:
    """Notes what is asked of it, and when a look-up is done."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.woken = threading.Semaphore(0)
        self.waker = self

    def wake(self) -> None:
        self.woken.release()

    def connect(self, endpoint: str, key: str = "", address: str = "") -> None:
        self.calls.append((endpoint, key, address))

    def disconnect(self, endpoint: str) -> None:
        self.calls.append((endpoint,))


def dialler(sockets: Sockets, look_up: Callable[[str, int], list[str]]) -> Dialler:
    return Dialler(cast(ProducerSockets, sockets), look_up)


def answered(sockets: Sockets, dialler: Dialler) -> list[tuple[str, ...]]:
    """What is dialled once the look-up is done."""
    assert sockets.woken.acquire(timeout=10)
    before = len(sockets.calls)
    dialler.answer()
    return sockets.calls[before:]


@pytest.mark.parametrize("endpoint", [FIRST, "tcp://[fd00::1]:5599", "ipc:///tmp/run"])
def test_an_address_is_dialled_at_once_and_once(endpoint: str) -> None:
    sockets = Sockets()
    made = dialler(sockets, lambda host, port: pytest.fail("there is nothing to look up"))
    made.dial(endpoint, "")
    made.dial(endpoint, "")
    assert sockets.calls == [(endpoint, "", "")], "ZeroMQ goes on trying by itself"
    made.dial(endpoint, "k")
    assert sockets.calls[1:] == [(endpoint, "k", "")], "with another key it is another connection"
    made.hang_up(endpoint)
    made.dial(endpoint, "k")
    assert sockets.calls[2:] == [(endpoint,), (endpoint, "k", "")]


def test_a_name_is_dialled_at_its_addresses_in_turn() -> None:
    sockets = Sockets()
    made = dialler(sockets, lambda host, port: [FIRST, SECOND])
    dials = []
    for _ in range(3):
        made.dial(NAME, "k")
        dials += answered(sockets, made)
    assert dials == [(NAME, "k", FIRST), (NAME, "k", SECOND), (NAME, "k", FIRST)]


def test_a_name_with_one_address_is_left_to_zeromq_until_it_has_another() -> None:
    sockets, found = Sockets(), [FIRST]
    made = dialler(sockets, lambda host, port: list(found))
    for expected in ([(NAME, "", FIRST)], []):
        made.dial(NAME, "")
        assert answered(sockets, made) == expected
    found[:] = [SECOND]
    made.dial(NAME, "")
    assert answered(sockets, made) == [(NAME, "", SECOND)]


def test_a_name_without_an_address_is_said_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    sockets, found = Sockets(), [FIRST]

    def look_up(host: str, port: int) -> list[str]:
        if len(caplog.records) < 1:
            raise OSError(-2, "Name or service not known")
        return found

    made = dialler(sockets, look_up)
    made.dial(NAME, "")
    assert answered(sockets, made) == []
    assert [record.message for record in caplog.records] == [
        f"{NAME} has no address yet (Name or service not known); trying again"
    ]
    made.dial(NAME, "")
    assert answered(sockets, made) == [(NAME, "", FIRST)]


def test_a_name_server_that_is_slow_holds_nobody_up() -> None:
    sockets, slow, asked = Sockets(), threading.Event(), []

    def look_up(host: str, port: int) -> list[str]:
        asked.append(host)
        slow.wait(10)
        return [FIRST]

    made = dialler(sockets, look_up)
    made.dial(NAME, "")
    made.dial(NAME, "later")
    made.answer()
    assert sockets.calls == []
    slow.set()
    assert answered(sockets, made) == [(NAME, "later", FIRST)], "asked once, dialled with the latest key"
    assert asked == ["train"]


def test_a_rank_that_is_left_meanwhile_is_not_dialled() -> None:
    sockets = Sockets()
    made = dialler(sockets, lambda host, port: [FIRST])
    made.dial(NAME, "")
    made.hang_up(NAME)
    assert answered(sockets, made) == []


def test_a_malformed_address_is_said_at_once() -> None:
    with pytest.raises(EndpointError, match="tcp://HOST:PORT"):
        dialler(Sockets(), lambda host, port: []).dial("nonsense", "")


@pytest.mark.parametrize("host", ["a" * 70, "a..b", "nu\0ll"], ids=["long", "empty label", "null"])
def test_what_can_be_no_name_has_no_address_whoever_names_it(host: str) -> None:
    """Endpoints come from the wire; Python refuses some before it asks anybody."""
    with pytest.raises(OSError, match=r"cannot be a name|not known|No address"):
        look_up(host, 5599)
