"""Raw ZeroMQ, zero-copy: a DEALER that sends, a ROUTER that receives, tcp on the loopback. The floor.

No checksum, no validation, no acknowledgement, no lease: what it sends is what a good link brings. Pixels are not
copied on either side; the high-water marks alone bound what is under way.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import numpy as np
import zmq

from baselines.sender import IN_FLIGHT, WAIT_S, Get, Images, Shape, ready_groups, running

_HEADER = struct.Struct("<5Q")


def send(endpoint: str, shape: Shape, rank_key: bytes = b"") -> None:
    """The sender process: sends groups until it is killed."""
    arrays = ready_groups(shape)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        if rank_key:
            socket.curve_serverkey = rank_key
            socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
        socket.setsockopt(zmq.SNDHWM, IN_FLIGHT // 2)
        socket.connect(endpoint)
        for index in count():
            socket.send_multipart([_HEADER.pack(index, *shape), arrays[index % len(arrays)]], copy=False)


@contextmanager
def groups(shape: Shape, *, has_keys: bool = False) -> Iterator[Get]:
    """See the package; encrypted by CURVE where it has keys, without a list of whom it lets in."""
    key, secret = zmq.curve_keypair() if has_keys else (b"", b"")
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        if has_keys:
            socket.curve_server, socket.curve_publickey, socket.curve_secretkey = True, key, secret
        socket.setsockopt(zmq.RCVHWM, IN_FLIGHT // 2)
        socket.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000))
        socket.setsockopt(zmq.LINGER, 0)
        port = socket.bind_to_random_port("tcp://127.0.0.1")

        def get() -> Images:
            _, header, payload = socket.recv_multipart(copy=False)
            _, *sizes = _HEADER.unpack(header.buffer)
            return np.frombuffer(payload.buffer, dtype=np.uint8).reshape(sizes)

        with running(send, f"tcp://127.0.0.1:{port}", shape, key):
            yield get
