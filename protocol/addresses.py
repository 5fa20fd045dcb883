"""Addresses of ranks: which may be bound, which producers are told to dial, and how each rank gets its own."""

import ipaddress

from penstock.protocol.errors import EndpointError


def check_endpoint(endpoint: str, *, may_leave: bool) -> str:
    """`endpoint` if it is `tcp://HOST:PORT` or `ipc://PATH` and stays on this machine, or if it `may_leave` it.

    Raises EndpointError. Port 0 asks for a free one.
    """
    scheme, _, rest = endpoint.partition("://")
    if scheme == "ipc" and rest:
        return endpoint
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise EndpointError(
            f"{endpoint!r} is not an address; write tcp://HOST:PORT (port 0 for a free one) or ipc://PATH"
        )
    if host.strip("[]") in ("0.0.0.0", "*", "::"):
        raise EndpointError(
            f"{endpoint} is every address of this machine, but producers must be told one to dial; name it"
        )
    if not may_leave and not _is_loopback(host.strip("[]")):
        raise EndpointError(
            f"{endpoint} can be reached from other machines and this link has no keys; "
            "make some (penstock keys init) and give them with --stream.keys, bind to 127.0.0.1, or, on a network "
            "that you trust, say --stream.insecure"
        )
    return endpoint


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def advertised(bound: str, host: str) -> str:
    """What producers dial, where `bound` is what this rank has bound and `host` names it otherwise, unless empty."""
    return f"tcp://{host}:{bound.rpartition(':')[2]}" if host and bound.startswith("tcp://") else bound


def next_endpoint(endpoint: str, rank: int) -> str:
    """Address for `rank` where rank 0 binds `endpoint`: the port counts up, 0 stays 0, an ipc path gets a suffix."""
    if rank == 0:
        return endpoint
    if endpoint.startswith("ipc://"):
        return f"{endpoint}.{rank}"
    host, _, port = endpoint.rpartition(":")
    return f"{host}:{int(port) + rank if int(port) else 0}"
