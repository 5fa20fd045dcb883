"""Addresses of ranks: which may be bound, which one producers are told to dial, and how each rank gets its own.

What a rank binds and what producers dial are often two addresses: a rank that binds every address of its machine
(`tcp://*:5599`) must still name one, and behind a translated or mapped port that one is not even its own.
"""

import ipaddress
import socket
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from penstock.protocol.errors import ConfigError, EndpointError

_EVERY: Final = ("*", "0.0.0.0", "::")
"""Hosts that stand for every address of a machine: of both families, of IPv4, of both again."""
_ELSEWHERE: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses that are nobody's (RFC 5737, RFC 3849), so that the way there is the default route."""


def check_endpoint(endpoint: str, *, may_leave: bool) -> str:
    """`endpoint` if a rank may bind it: it is `tcp://HOST:PORT` or `ipc://PATH` and stays here, or it `may_leave`.

    HOST is an address, a name or an interface of this machine, or `*` for all its addresses; port 0 asks for a free
    one. Raises EndpointError.
    """
    if endpoint.startswith("ipc://") and endpoint != "ipc://":
        return endpoint
    host, _ = _parse(endpoint)
    if not may_leave and not _is_loopback(host):
        raise EndpointError(
            f"{endpoint} can be reached from other machines and this link has no keys; "
            "make some (penstock keys init) and give them with --stream.keys, bind to 127.0.0.1, or, on a network "
            "that you trust, say --stream.insecure"
        )
    return endpoint


def check_dialled(endpoint: str) -> str:
    """`endpoint` if a producer can dial it. Raises EndpointError."""
    if endpoint.startswith("ipc://") and endpoint != "ipc://":
        return endpoint
    host, port = _parse(endpoint)
    if host in _EVERY:
        raise EndpointError(f"{endpoint} is every address of a machine; to dial one, name it")
    if port == 0:
        raise EndpointError(f"{endpoint} is no address to dial: port 0 stands for one that the rank has yet to choose")
    return endpoint


def to_bind(endpoint: str) -> str:
    """What ZeroMQ is to bind for an endpoint: names looked up, `*` in both families where the machine has both.

    Raises EndpointError where a name has no address, or only one that other machines do not reach.
    """
    if endpoint.startswith("ipc://"):
        return endpoint
    host, port = _parse(endpoint)
    if host == "*":
        host = "::" if _has_ipv6() else "0.0.0.0"
    elif host != "localhost" and not _is_address(host) and host not in {name for _, name in socket.if_nameindex()}:
        host = _address_to_bind(host, endpoint)
    return f"tcp://{_bracketed(host)}:{port or '*'}"


def advertised(bound: str, advertise: str) -> str:
    """What producers dial.

    Args:
        bound: what this rank has bound, as ZeroMQ tells it.
        advertise: HOST or HOST:PORT, where the user has said so; else empty.

    Raises EndpointError where every address is bound and no other machine reaches any, ConfigError where `advertise`
    is malformed.
    """
    if bound.startswith("ipc://"):
        return bound
    host, port = _parse(bound)
    if advertise:
        host, mapped = parse_advertised(advertise)
        port = mapped or port
    elif host in _EVERY:
        host = _own_address(host)
    return f"tcp://{_bracketed(host)}:{port}"


def nearby(bound: str) -> str:
    """What producers on the same machine dial, whatever the others do."""
    host = "" if bound.startswith("ipc://") else _parse(bound)[0]
    return bound.replace(_bracketed(host), "127.0.0.1", 1) if host in _EVERY else bound


def next_endpoint(endpoint: str, rank: int) -> str:
    """Address for `rank` where rank 0 binds `endpoint`: the port counts up, 0 stays 0, an ipc path gets a suffix."""
    if rank == 0:
        return endpoint
    if endpoint.startswith("ipc://"):
        return f"{endpoint}.{rank}"
    host, _, port = endpoint.rpartition(":")
    return f"{host}:{int(port) + rank if int(port) else 0}"


def next_advertised(advertise: str, rank: int) -> str:
    """HOST or HOST:PORT of `rank` where that of rank 0 is `advertise`: a port counts up. Raises ConfigError."""
    host, port = parse_advertised(advertise) if advertise else ("", 0)
    return f"{_bracketed(host)}:{port + rank}" if port else host


def parse_advertised(text: str) -> tuple[str, int]:
    """Host, without brackets, and port of HOST or HOST:PORT; port 0 where there is none. Raises ConfigError."""
    host, port = text, "0"
    if ":" in text and not _is_address(text.strip("[]")):
        host, _, port = text.rpartition(":")
    is_right = port.isascii() and port.isdigit() and int(port) <= 65535 and (host == text or int(port) > 0)
    name = host.removeprefix("[").removesuffix("]")
    if not is_right or not name or name in _EVERY or "/" in name or (":" in name and not _is_address(name)):
        raise ConfigError(f"stream.advertise must be HOST or HOST:PORT that producers can dial, got {text!r}")
    return name, int(port)


def check_distinct(endpoints: Sequence[str]) -> None:
    """Each rank must be told from the others by its address. Raises ConfigError."""
    ranks = defaultdict(list)
    for rank, endpoint in enumerate(endpoints):
        ranks[endpoint].append(rank)
    for endpoint, same in ranks.items():
        if len(same) > 1:
            raise ConfigError(
                f"ranks {', '.join(map(str, same))} all tell producers to dial {endpoint}; give the ranks of each "
                "machine its own --stream.advertise HOST"
            )


def check_reachable(endpoints: Sequence[str], hosts: Sequence[str]) -> None:
    """Where ranks are on several machines, producers cannot be on all. Raises ConfigError.

    Args:
        endpoints: that ranks advertise of themselves, by rank.
        hosts: names of their machines, by rank.
    """
    if len(set(hosts)) == 1:
        return
    for rank, (endpoint, host) in enumerate(zip(endpoints, hosts, strict=True)):
        if endpoint.startswith("ipc://") or _is_loopback(_parse(endpoint)[0]):
            raise ConfigError(
                f"rank {rank} on {host} listens at {endpoint}, which no other machine reaches; with ranks on several "
                "machines give --stream.endpoint 'tcp://*:5599' and --stream.keys"
            )


def split_host(endpoint: str) -> tuple[str, int] | None:
    """Name and port of `tcp://NAME:PORT` whose host must be looked up; None where it is an address, or no host."""
    if endpoint.startswith("ipc://"):
        return None
    host, port = _parse(endpoint)
    return None if _is_address(host) else (host, port)


def look_up(host: str, port: int) -> list[str]:
    """Endpoints behind a name, IPv4 first, which is what clusters bind; may take long. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except ValueError as error:  # a label that is too long, a null: a rank may name anything
        raise OSError(f"{host!r:.80} cannot be a name: {error}") from error
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return list(dict.fromkeys(f"tcp://{_bracketed(str(entry[4][0]))}:{port}" for entry in found))


def _parse(endpoint: str) -> tuple[str, int]:
    """Host, without brackets, and port of `tcp://HOST:PORT`. Raises EndpointError."""
    scheme, _, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    is_right = scheme == "tcp" and bool(host) and port.isascii() and port.isdigit() and int(port) <= 65535
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        is_right = False
    if not is_right:
        raise EndpointError(
            f"{endpoint!r} is not an address; write tcp://HOST:PORT (port 0 for a free one, an IPv6 address in "
            "brackets) or ipc://PATH"
        )
    return host.strip("[]"), int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _has_ipv6() -> bool:
    """Whether one socket can listen for both families."""
    if not socket.has_dualstack_ipv6():
        return False
    try:
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True).close()
    except OSError:
        return False
    return True


def _address_to_bind(host: str, endpoint: str) -> str:
    """An address of a name that is to be bound. Raises EndpointError."""
    try:
        first = look_up(host, 0)[0]
    except OSError as error:
        raise EndpointError(
            f"cannot bind {endpoint}: {host} is no interface of this machine, and no name that has an address ({error})"
        ) from error
    address, _ = _parse(first)
    if _is_loopback(address):
        raise EndpointError(
            f"cannot bind {endpoint}: on this machine {host} is {address}, which no other machine reaches; "
            "bind an address, an interface or tcp://*:PORT"
        )
    return address


def _own_address(every: str) -> str:
    """The address at which others most probably reach this machine: that of its name, else that of its default route.

    Not the name itself, which in containers means nothing elsewhere. Raises EndpointError.
    """
    families = {"0.0.0.0": (socket.AF_INET,), "::": (socket.AF_INET, socket.AF_INET6)}[every]
    for of in (_address_of_name, _address_of_default_route):
        for family in families:
            if found := of(family):
                return found
    raise EndpointError(
        "every address of this machine is bound, and none was found that other machines reach; "
        "say which one producers are to dial (--stream.advertise HOST)"
    )


def _address_of_name(family: socket.AddressFamily) -> str | None:
    """Of this machine's name; None where it is on loopback, or another machine's."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, family, socket.SOCK_DGRAM)
    except OSError:
        return None
    return next((str(at[0]) for *_, at in found if not _is_loopback(str(at[0])) and _is_ours(family, str(at[0]))), None)


def _is_ours(family: socket.AddressFamily, address: str) -> bool:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _address_of_default_route(family: socket.AddressFamily) -> str | None:
    """From which this machine would send into the world; nothing is sent."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_ELSEWHERE[family], 9))
            address = str(probe.getsockname()[0])
    except OSError:
        return None
    return None if _is_loopback(address) else address
