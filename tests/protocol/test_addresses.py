"""Addresses: which are allowed, how each rank gets its own, and what is said where one cannot be bound or dialled."""

import socket as plain_socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.protocol import addresses
from penstock.protocol.addresses import (
    advertised,
    check_dialled,
    check_distinct,
    check_endpoint,
    check_reachable,
    look_up,
    nearby,
    next_advertised,
    next_endpoint,
    parse_advertised,
    to_bind,
)
from penstock.protocol.errors import ConfigError, EndpointError
from penstock.protocol.sockets import ProducerSockets, RankSocket


@pytest.fixture
def rank() -> Iterator[RankSocket]:
    socket = RankSocket("tcp://127.0.0.1:0")
    yield socket
    socket.close()


@pytest.fixture
def producer() -> Iterator[ProducerSockets]:
    with ProducerSockets() as sockets:
        yield sockets


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://127.0.0.1:5599",
        "tcp://127.0.0.1:0",
        "tcp://127.8.9.1:5599",
        "tcp://localhost:5599",
        "tcp://[::1]:5599",
        "ipc:///tmp/run.sock",
    ],
)
def test_an_address_on_this_machine_is_allowed(endpoint: str) -> None:
    assert check_endpoint(endpoint, may_leave=False) == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://192.168.1.2:5599",
        "tcp://[2001:db8::1]:5599",
        "tcp://eth0:5599",
        "tcp://*:5599",
        "tcp://0.0.0.0:5599",
        "tcp://[::]:5599",
        "tcp://example.org:5599",
    ],
)
def test_an_address_that_others_reach_needs_insecure(endpoint: str) -> None:
    with pytest.raises(EndpointError, match=r"no keys.*127\.0\.0\.1.*insecure"):
        check_endpoint(endpoint, may_leave=False)
    assert check_endpoint(endpoint, may_leave=True) == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "5599",
        "127.0.0.1:5599",
        "tcp://127.0.0.1",
        "tcp://:5599",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:x",
        "tcp://127.0.0.1:70000",
        "tcp://::1:5599",
        "tcp://127.0.0.1:-1",
        "tcp://127.0.0.1:٣",
        "http://127.0.0.1:5599",
        "udp://127.0.0.1:5599",
        "ipc://",
        "inproc://a",
    ],
)
@pytest.mark.parametrize("insecure", [False, True])
def test_a_malformed_address_is_refused_with_the_form_of_a_good_one(endpoint: str, insecure: bool) -> None:
    with pytest.raises(EndpointError, match="tcp://HOST:PORT") as caught:
        check_endpoint(endpoint, may_leave=insecure)
    assert repr(endpoint) in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "rank", "expected"),
    [
        ("tcp://127.0.0.1:5599", 0, "tcp://127.0.0.1:5599"),
        ("tcp://127.0.0.1:5599", 3, "tcp://127.0.0.1:5602"),
        ("tcp://[::1]:5599", 1, "tcp://[::1]:5600"),
        ("tcp://127.0.0.1:0", 2, "tcp://127.0.0.1:0"),
        ("ipc:///tmp/run", 0, "ipc:///tmp/run"),
        ("ipc:///tmp/run", 2, "ipc:///tmp/run.2"),
    ],
)
def test_each_rank_has_an_address_of_its_own(endpoint: str, rank: int, expected: str) -> None:
    assert next_endpoint(endpoint, rank) == expected


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1", "nonsense", "http://127.0.0.1:80", ""])
def test_a_malformed_address_raises_one_line_where_it_is_used(endpoint: str, producer: ProducerSockets) -> None:
    with pytest.raises(EndpointError):
        RankSocket(endpoint)
    with pytest.raises(EndpointError, match="tcp://HOST:PORT") as caught:
        producer.connect(endpoint)
    assert "\n" not in str(caught.value)


def test_port_zero_takes_a_free_port_and_says_which(rank: RankSocket) -> None:
    host, _, port = rank.endpoint.rpartition(":")
    assert host == "tcp://127.0.0.1"
    assert int(port) > 0


def test_a_taken_port_is_named_with_what_to_do(rank: RankSocket) -> None:
    with pytest.raises(EndpointError, match=rf"{rank.endpoint} is in use .*--stream\.endpoint"):
        RankSocket(rank.endpoint)


def test_a_port_taken_by_any_other_program_is_named_too() -> None:
    with plain_socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError, match="in use"):
            RankSocket(f"tcp://127.0.0.1:{port}")


def test_an_address_beyond_loopback_is_not_bound() -> None:
    with pytest.raises(EndpointError, match="insecure"):
        RankSocket("tcp://192.0.2.1:0")


def test_an_ipc_address_in_use_is_named_and_one_left_behind_is_taken(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/run.sock"
    first = RankSocket(endpoint)
    with pytest.raises(EndpointError, match="in use"):
        RankSocket(endpoint)
    first.close()
    with plain_socket.socket(plain_socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "run.sock"))
    RankSocket(endpoint).close()


def test_a_file_in_the_place_of_an_ipc_address_is_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(EndpointError, match="is a file"):
        RankSocket(f"ipc://{tmp_path}/thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "precious"


# --- what is bound, and what producers are told -------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Addresses of a machine called `node7`, by name; `route` has those from which it would send into the world."""
    names: dict[str, list[str]] = {"localhost": ["127.0.0.1"], "node7": [], "route": [], "ours": []}

    def getaddrinfo(host: str, port: object, family: int = 0, type: int = 0) -> list[object]:  # noqa: A002
        found = [(_family(at), type, 0, "", (at, port)) for at in names.get(host, [])]
        chosen = [entry for entry in found if family in (0, entry[0])]
        if not chosen:
            raise plain_socket.gaierror(-2, "Name or service not known")
        return list(chosen)

    class Probe:
        def __init__(self, family: int, kind: int) -> None:
            self._family = family

        def bind(self, at: tuple[str, int]) -> None:
            if at[0] not in names["ours"]:
                raise OSError("cannot assign requested address")

        def connect(self, at: tuple[str, int]) -> None:
            if not self.getsockname():
                raise OSError("network is unreachable")

        def getsockname(self) -> list[str]:
            return [at for at in names["route"] if _family(at) == self._family]

        def __enter__(self) -> "Probe":
            return self

        def __exit__(self, *exc: object) -> None:
            return None

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(addresses.socket, "gethostname", lambda: "node7")
    monkeypatch.setattr(addresses.socket, "socket", Probe)
    return names


def _family(address: str) -> int:
    return plain_socket.AF_INET6 if ":" in address else plain_socket.AF_INET


@pytest.mark.parametrize("bound", ["tcp://0.0.0.0:5599", "tcp://[::]:5599"])
def test_every_address_is_told_as_the_one_of_the_machine_s_name(machine: dict[str, list[str]], bound: str) -> None:
    machine |= {"node7": ["127.0.1.1", "10.9.9.9", "10.0.0.7"], "ours": ["10.0.0.7"], "route": ["192.168.1.1"]}
    assert advertised(bound, "") == "tcp://10.0.0.7:5599", "neither loopback nor another machine's"


def test_a_machine_whose_name_says_nothing_is_told_by_its_default_route(machine: dict[str, list[str]]) -> None:
    machine |= {"node7": ["127.0.1.1"], "route": ["192.168.1.1", "fd00::1"]}
    assert advertised("tcp://[::]:5599", "") == "tcp://192.168.1.1:5599"
    machine["route"] = ["fd00::1"]
    assert advertised("tcp://[::]:5599", "") == "tcp://[fd00::1]:5599"


def test_a_machine_that_no_other_reaches_is_told_what_to_do(machine: dict[str, list[str]]) -> None:
    machine["route"] = ["fd00::1"]
    with pytest.raises(EndpointError, match=r"--stream\.advertise HOST"):
        advertised("tcp://0.0.0.0:5599", "")


@pytest.mark.parametrize(
    ("bound", "advertise", "told"),
    [
        ("tcp://10.0.0.7:5599", "", "tcp://10.0.0.7:5599"),
        ("tcp://[fd00::7]:5599", "", "tcp://[fd00::7]:5599"),
        ("tcp://0.0.0.0:5599", "gate.example.org", "tcp://gate.example.org:5599"),
        ("tcp://127.0.0.1:5599", "203.0.113.9:31000", "tcp://203.0.113.9:31000"),
        ("tcp://[::]:5599", "2001:db8::9", "tcp://[2001:db8::9]:5599"),
        ("tcp://[::]:5599", "[2001:db8::9]:31000", "tcp://[2001:db8::9]:31000"),
        ("ipc:///tmp/run", "", "ipc:///tmp/run"),
    ],
)
def test_producers_are_told_what_the_user_says_and_else_what_is_bound(bound: str, advertise: str, told: str) -> None:
    assert advertised(bound, advertise) == told
    assert check_dialled(told) == told


@pytest.mark.parametrize(
    ("bound", "here"),
    [
        ("tcp://0.0.0.0:5599", "tcp://127.0.0.1:5599"),
        ("tcp://[::]:5599", "tcp://127.0.0.1:5599"),
        ("tcp://10.0.0.7:5599", "tcp://10.0.0.7:5599"),
        ("ipc:///tmp/run", "ipc:///tmp/run"),
    ],
)
def test_producers_of_the_same_machine_need_no_network(bound: str, here: str) -> None:
    assert nearby(bound) == here


@pytest.mark.parametrize(
    ("advertise", "rank", "told"),
    [
        ("", 3, ""),
        ("node7", 3, "node7"),
        ("node7:31000", 0, "node7:31000"),
        ("node7:31000", 3, "node7:31003"),
        ("[fd00::7]:31000", 1, "[fd00::7]:31001"),
        ("fd00::7", 1, "fd00::7"),
    ],
)
def test_a_mapped_port_counts_up_with_the_rank(advertise: str, rank: int, told: str) -> None:
    assert next_advertised(advertise, rank) == told


@pytest.mark.parametrize(
    "advertise",
    ["*", "0.0.0.0", "::", "[::]:1", ":5599", "node7:", "node7:0", "node7:70000", "node7:x", "tcp://node7:1", "a:b:1"],
)
def test_what_producers_cannot_dial_is_not_advertised(advertise: str) -> None:
    with pytest.raises(ConfigError, match="HOST or HOST:PORT"):
        parse_advertised(advertise)


@pytest.mark.parametrize("endpoint", ["tcp://*:5599", "tcp://0.0.0.0:5599", "tcp://[::]:5599", "tcp://127.0.0.1:0"])
def test_what_stands_for_many_addresses_or_for_none_is_not_dialled(endpoint: str, producer: ProducerSockets) -> None:
    with pytest.raises(EndpointError, match=r"name it|port 0"):
        producer.connect(endpoint)


def test_a_name_is_bound_at_its_address(machine: dict[str, list[str]]) -> None:
    machine["train.example.org"] = ["fd00::7", "10.0.0.7"]
    assert to_bind("tcp://train.example.org:5599") == "tcp://10.0.0.7:5599"
    machine["train.example.org"] = ["fd00::7"]
    assert to_bind("tcp://train.example.org:0") == "tcp://[fd00::7]:*"


def test_a_name_that_nobody_else_reaches_is_not_bound(machine: dict[str, list[str]]) -> None:
    with pytest.raises(EndpointError, match=r"nowhere.*no interface.*no name"):
        to_bind("tcp://nowhere:5599")
    machine["node7"] = ["127.0.1.1"]
    with pytest.raises(EndpointError, match=r"node7 is 127\.0\.1\.1.*tcp://\*:PORT"):
        to_bind("tcp://node7:5599")


def test_a_name_is_dialled_at_each_of_its_addresses_ipv4_first(machine: dict[str, list[str]]) -> None:
    machine["train"] = ["fd00::7", "10.0.0.7", "fd00::7"]
    assert look_up("train", 5599) == ["tcp://10.0.0.7:5599", "tcp://[fd00::7]:5599"]


def test_two_ranks_must_not_have_one_address() -> None:
    check_distinct(["tcp://a:1", "tcp://a:2", "tcp://b:1"])
    with pytest.raises(ConfigError, match=r"ranks 0, 2 .*tcp://a:1.*--stream\.advertise"):
        check_distinct(["tcp://a:1", "tcp://a:2", "tcp://a:1"])


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:5600", "tcp://[::1]:5600", "tcp://localhost:5600", "ipc:///tmp/r"]
)
def test_ranks_on_several_machines_must_not_hide_on_loopback(endpoint: str) -> None:
    endpoints = ["tcp://10.0.0.1:5599", endpoint]
    check_reachable(endpoints, ["a", "a"])
    check_reachable(["tcp://10.0.0.1:5599", "tcp://b:5600"], ["a", "b"])
    with pytest.raises(ConfigError, match=r"rank 1 on b .*tcp://\*:5599"):
        check_reachable(endpoints, ["a", "b"])


@pytest.mark.parametrize("endpoint", ["tcp://*:0", "tcp://[::]:0"])
def test_every_address_in_both_families_is_bound(endpoint: str) -> None:
    if not plain_socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    socket = RankSocket(endpoint, insecure=True, advertise="node7")
    try:
        host, _, port = socket.endpoint.rpartition(":")
        assert host == "tcp://node7"
        assert socket.local_endpoint == f"tcp://127.0.0.1:{port}"
        for address in ("127.0.0.1", "::1"):
            plain_socket.create_connection((address, int(port)), timeout=5).close()
    finally:
        socket.close()


def test_an_interface_is_bound_at_its_address() -> None:
    socket = RankSocket("tcp://lo:0", insecure=True)
    try:
        assert socket.endpoint.startswith("tcp://127.0.0.1:")
    finally:
        socket.close()
