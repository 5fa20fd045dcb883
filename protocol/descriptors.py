"""Room for connections: each is a descriptor, of which a process may have so many."""

import resource
from typing import Final

_OTHERS: Final = 256
"""What else a trainer has open."""


def room_for(num_connections: int) -> int:
    """How many connections a process can hold, at most so many; asks the system for more descriptors if need be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_connections + _OTHERS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return num_connections
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return min(num_connections, max(1, most - _OTHERS))
