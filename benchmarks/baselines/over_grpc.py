"""gRPC: the sender is a server whose one method answers with a stream of groups.

A generic handler with its own serialisers, so that no protobuf message wraps the pixels and costs a copy more.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from multiprocessing.connection import Connection

import grpc
import numpy as np

from baselines.sender import SPAWN, WAIT_S, Get, Images, Shape, ready_groups, running

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.http2.max_frame_size", (1 << 24) - 1),
    ("grpc.optimization_target", "throughput"),
]


def send(port: Connection, shape: Shape) -> None:
    """The sender process: tells its port, serves until it is killed."""
    arrays = ready_groups(shape)

    def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[Images]:
        for index in count():
            if not context.is_active():
                return
            yield arrays[index % len(arrays)]

    method = grpc.unary_stream_rpc_method_handler(stream, response_serializer=np.ndarray.tobytes)
    server = grpc.server(ThreadPoolExecutor(max_workers=1), options=_OPTIONS)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Groups", {"Stream": method})])
    number = server.add_insecure_port("127.0.0.1:0")
    server.start()
    port.send(number)
    server.wait_for_termination()


@contextmanager
def groups(shape: Shape) -> Iterator[Get]:
    """See the package."""
    mine, theirs = SPAWN.Pipe()
    with running(send, theirs, shape):
        if not mine.poll(WAIT_S):
            raise TimeoutError(f"no gRPC server within {WAIT_S:.0f} s")
        with grpc.insecure_channel(f"127.0.0.1:{mine.recv()}", options=_OPTIONS) as channel:
            answers = channel.unary_stream("/Groups/Stream")(b"", wait_for_ready=True)

            def get() -> Images:
                return np.frombuffer(next(answers), dtype=np.uint8).reshape(shape)

            yield get
            answers.cancel()
