import pytest

from penstock.config.address import Address, parse_address
from penstock.protocol.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("9464", "127.0.0.1", 9464),
        ("0", "127.0.0.1", 0),
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("[::1]:9464", "::1", 9464),
        ("localhost:65535", "localhost", 65535),
    ],
)
def test_reads_what_people_write(text: str, host: str, port: int) -> None:
    assert parse_address(text, "metrics") == Address(host, port)


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":80", "::1:80", "host:65536", "host:-1", "a b:80", "host:٣", "9" * 5000]
)
def test_names_setting_and_value_of_anything_else(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^dashboard must be HOST:PORT, or a port of this machine, got "):
        parse_address(text, "dashboard")


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("h", False)],
)
def test_knows_who_can_reach_it(host: str, is_loopback: bool) -> None:
    assert Address(host, 1).is_loopback == is_loopback


def test_ranks_take_the_ports_above() -> None:
    assert Address("h", 9464).shifted(3) == Address("h", 9467)
    assert Address("h", 0).shifted(3) == Address("h", 0)
    with pytest.raises(ConfigError, match="beyond 65535"):
        Address("h", 65535).shifted(1)


def test_url_brackets_ipv6() -> None:
    assert Address("::1", 80).url == "http://[::1]:80"
    assert Address("127.0.0.1", 80).url == "http://127.0.0.1:80"
