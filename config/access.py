"""Who may read what a process serves over HTTP: on this machine everyone, beyond it whoever brings a token.

The metrics' token is the user's choice and never made up: Prometheus must know it before the process is there.
"""

import hmac
import os
import stat
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from penstock.config.address import Address
from penstock.protocol.errors import ConfigError

METRICS_TOKEN: Final = "PENSTOCK_METRICS_TOKEN"
"""Of the environment: what those must bring who read the metrics."""
_MIN_CHARACTERS: Final = 16
_CHARACTERS: Final = frozenset({*string.ascii_letters, *string.digits, "-", "_"})
"""That an address, a cookie and a header carry as they are."""
_MAX_FILE_BYTES: Final = 4096
_SCHEME: Final = "bearer"


def check_token(token: str, name: str) -> str:
    """The token itself. Raises ConfigError where it is too short to keep anybody out, or no address can carry it.

    Args:
        token: the user's.
        name: where it stands, for the error, which does not repeat the token.
    """
    if len(token) < _MIN_CHARACTERS or not _CHARACTERS.issuperset(token):
        raise ConfigError(f"{name} must have at least {_MIN_CHARACTERS} characters, of A-Z a-z 0-9 - _ alone")
    return token


def metrics_token(
    address: Address, environ: Mapping[str, str], *, file: str = "", insecure: bool = False
) -> str | None:
    """The token that readers of the metrics at `address` must bring; None where everyone who reaches it may read.

    Args:
        address: where they are served.
        environ: of the process.
        file: that holds the token, before the environment's; empty for none.
        insecure: whether everyone may read beyond this machine where there is no token.

    Raises ConfigError where others reach the address and there is neither, or the token cannot be used.
    """
    if file:
        return _read(Path(file).expanduser())
    if token := environ.get(METRICS_TOKEN, ""):
        return check_token(token, METRICS_TOKEN)
    if insecure or address.is_loopback:
        return None
    raise ConfigError(
        f"metrics: others can reach {address}, so it wants a token: name its file with --metrics-token-file, or set "
        f"{METRICS_TOKEN}; --metrics-insecure lets everyone read"
    )


def brings(authorization: str, token: str) -> bool:
    """Whether an `Authorization` header brings `token`; how long the answer takes says nothing of the token."""
    scheme, _, brought = authorization.partition(" ")
    return scheme.lower() == _SCHEME and hmac.compare_digest(brought.strip().encode(), token.encode())


def _read(path: Path) -> str:
    name = f"metrics_token_file {path}"
    try:
        with path.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            text = opened.read(_MAX_FILE_BYTES).decode("ascii", errors="replace")
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror or error}") from error
    # A group may read it: so does whoever a cluster mounts it for.
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ConfigError(f"{name} is open to others (mode {stat.S_IMODE(mode):04o}); chmod 600 it")
    return check_token(text.strip(), name)
