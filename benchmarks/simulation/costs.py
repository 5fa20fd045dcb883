"""What messages cost, measured on this machine with the real codec, machines and sockets: a simulated rank's work."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import zmq

from penstock.protocol.checksum import crc32
from penstock.protocol.codec import decode, encode
from penstock.protocol.image_codec import RAW
from penstock.protocol.inspection import inspect
from penstock.protocol.messages import Ack, Header, Heartbeat, Message, Result, Tickets
from penstock.protocol.tickets import Attempt, Manifest, Recipe, Ticket, group_seed

HEADER = Header(run="a-run-of-usual-name", incarnation=1, seq=100_000)
MODEL_DIGEST = "5ca1e"
MEASURED_S = 0.15
"""CPU time that each measurement takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """CPU seconds and bytes."""

    hear_s: float
    """To receive and decode a small message. What the machine makes of it is not in it."""
    say_s: float
    """To encode and send one."""
    ticket_s: float
    """To encode one ticket more in a message."""
    inspect_s_per_byte: float
    """To take a group's checksum and to look at it."""
    machine_s: float = 8e-6
    """What the machine and its shell do with a small message."""
    small_bytes: int
    """Of a heartbeat that names nothing, with what TCP and ZeroMQ add."""
    attempt_bytes: int
    """Of each attempt that a message names."""
    ticket_bytes: int


def recipe(num_images: int, group_bytes: int) -> Recipe:
    """Of groups of so many images and bytes, with a caption of common length."""
    side = round((group_bytes / num_images / 3) ** 0.5)
    return Recipe(
        prompt="a wooden boat on a quiet lake in the morning, mountains in the background",
        seed=group_seed(0, 0, 0),
        num_images=num_images,
        guidance_scales=(2.0,),
        num_inference_steps=50,
        scheduler="default",
        height=side,
        width=side,
        model_digest=MODEL_DIGEST,
    )


def manifest(batch_images: int) -> Manifest:
    """Of every simulated producer."""
    return Manifest(
        model="simulated",
        model_digest=MODEL_DIGEST,
        scheduler="none",
        dtype="uint8",
        backend="paced",
        device="none",
        batch_images=batch_images,
        versions={},
    )


def measure(num_images: int, group_bytes: int) -> Costs:
    """Measure them for groups of this kind; takes two seconds."""
    what = recipe(num_images, group_bytes)
    ticket = Ticket(index=123_456, rank=0, need_by_step=1000, recipe=what)
    attempts = tuple(Attempt(index, 0) for index in range(100_000, 100_016))
    beat, long_beat, ack = Heartbeat(held=()), Heartbeat(held=attempts), Ack(attempts=attempts[:4])
    one, sixteen = Tickets(tickets=(ticket,)), Tickets(tickets=(ticket,) * 16)
    mixed: tuple[Message, ...] = (beat, long_beat, ack)
    frames = [encode(message, HEADER) for message in mixed]
    socket_s = _socket_s(frames[0])
    pixels = bytes([7]) * what.nbytes
    result = Result(index=ticket.index, attempt=0, shape=what.shape, codec=RAW, crc32=crc32(pixels), seconds=1.0)
    engine = manifest(32)
    tickets_s = _cpu_s(lambda: encode(sixteen, HEADER)) - _cpu_s(lambda: encode(one, HEADER))
    return Costs(
        hear_s=socket_s + sum(_cpu_s(lambda frame=frame: decode(frame)) for frame in frames) / len(frames),
        say_s=socket_s + sum(_cpu_s(lambda message=message: encode(message, HEADER)) for message in mixed) / len(mixed),
        ticket_s=max(0.0, tickets_s) / 15,
        inspect_s_per_byte=_cpu_s(lambda: inspect(ticket, engine, result, pixels)) / what.nbytes,
        small_bytes=len(frames[0]) + 60,
        attempt_bytes=(len(frames[1]) - len(frames[0])) // 16,
        ticket_bytes=(len(encode(sixteen, HEADER)) - len(encode(one, HEADER))) // 15,
    )


def _cpu_s(act: Callable[[], object]) -> float:
    """CPU time of one call."""
    num_calls, begun = 0, time.process_time()
    while (spent := time.process_time() - begun) < MEASURED_S:
        for _ in range(20):
            act()
        num_calls += 20
    return spent / num_calls


def _socket_s(frame: bytes) -> float:
    """CPU time of one side for one small message over TCP, ZeroMQ's threads included."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        router.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.LINGER, 0)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        dealer.connect(f"tcp://127.0.0.1:{port}")

        def exchange() -> None:
            for _ in range(50):
                dealer.send(frame)
            for _ in range(50):
                router.recv_multipart(copy=False)

        exchange()
        return _cpu_s(exchange) / 100


def free(costs: Costs) -> Costs:
    """The same bytes by machines of endless speed."""
    return replace(costs, hear_s=0.0, say_s=0.0, ticket_s=0.0, inspect_s_per_byte=0.0, machine_s=0.0)
