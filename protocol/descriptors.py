"""Room for connections: each is a descriptor, of which a process may have so many."""

import resource
from typing import Final

_OTHERS: Final = 256
"""What else a trainer has open."""
_FLOOD: Final = 1 << 16
"""What is asked for: ZeroMQ accepts whoever dials, and those who are too many are hung up on a moment later."""


def room_for(num_connections: int) -> int:
    """How many connections a process can hold, at most so many; asks the system for more descriptors if need be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return num_connections
    wanted = max(num_connections + _OTHERS, _FLOOD)
    most = max(soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return min(num_connections, max(1, most - _OTHERS))
