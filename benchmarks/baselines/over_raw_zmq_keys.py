"""Raw ZeroMQ with CURVE: as `over_raw_zmq.py`, encrypted. The floor of what keys cost."""

from contextlib import AbstractContextManager

from baselines import over_raw_zmq
from baselines.sender import Get, Shape


def groups(shape: Shape) -> AbstractContextManager[Get]:
    """See the package."""
    return over_raw_zmq.groups(shape, has_keys=True)
