"""Where a process listens for people and tools: `HOST:PORT`, or a port alone, which is on this machine only."""

import ipaddress
import re
from dataclasses import dataclass

from penstock.protocol.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Address:
    """Host and port of a TCP socket to listen at."""

    host: str
    """An IP address or a name, without brackets."""
    port: int
    """0 takes a free one."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def url(self) -> str:
        """As a browser wants it, without a path."""
        return f"http://{self}"

    def __str__(self) -> str:
        """As `parse_address` reads it."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def shifted(self, places: int) -> "Address":
        """The address so many ports higher; a free port stays one. Raises ConfigError beyond the last port."""
        if self.port == 0:
            return self
        if self.port + places > 65535:
            raise ConfigError(f"port {self.port} + {places} is beyond 65535; choose a lower one")
        return Address(self.host, self.port + places)


def parse_address(text: str, name: str) -> Address:
    """Read `HOST:PORT`, `[IPv6]:PORT` or `PORT`.

    Args:
        text: what the user wrote.
        name: of the setting, for the error.

    Raises ConfigError where it is none of these.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") and host.endswith("]") else host
    is_wrong = (":" in host and not text.startswith("[")) or (not host and ":" in text)
    if is_wrong or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535 or any(c.isspace() for c in host):
        raise ConfigError(f"{name} must be HOST:PORT, or a port of this machine, got {text!r}")
    return Address(host or "127.0.0.1", int(port))
