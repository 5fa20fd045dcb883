"""A rank's whole receiving path under fire: frames from honest, broken and hostile producers, through the stream's own
door into the state machine, while a trainer plans and takes groups.

`python -m tests.fuzz.rank --help`; `make fuzz` runs it after the decoder. Nothing may be raised, nothing broken may be
delivered, no index twice, and the machine's books must balance after every message.
"""

import argparse
import random
import sys
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgpack
import numpy as np

from penstock.consumer.config import StreamConfig
from penstock.consumer.stream import GroupStream
from penstock.protocol.actions import Action, Deliver, Fail, Quarantine, Send
from penstock.protocol.admission import Expectation
from penstock.protocol.codec import decode, encode
from penstock.protocol.dispatcher import Patience
from penstock.protocol.limits import PROTOCOL_VERSION
from penstock.protocol.messages import Ack, Cancel, Header, Nack, Tickets, Welcome
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.sockets import RankSocket
from penstock.protocol.tickets import Recipe, Ticket
from tests.fuzz.decoder import make_mutator, read_corpus
from tests.protocol.pictures import claiming, from_jpeg, to_jpeg

RUN, INCARNATION, DIGEST = "e81dc6f7", 1763840000, "ab" * 32
MAX_REJECT_KINDS = 1024 + 64
"""Pairs of reason and producer that a rank counts apart, and some for those beyond them."""
WINDOW_BYTES = 8000
MESSAGES_PER_LIFE = 2500
POISON = 7
"""No producer can make the last of so many tickets."""
SHAPES = ((1, 2, 2), (3, 4, 5), (2, 8, 8), (1, 24, 32))
"""The last is large enough for a JPEG."""
FILTER: dict[str, Any] = {"scorer_digest": "5c", "min_score": 0.5, "num_candidates": 4, "max_candidates": 16}
"""What some recipes ask for."""
LIES: tuple[dict[str, Any], ...] = (
    {"candidates": [0], "num_made": 4},
    {"candidates": [2, 1, 0], "num_made": 4},
    {"candidates": [0, 0, 1], "num_made": 4},
    {"candidates": [0, 1, 3], "num_made": 3},
    {"candidates": [0, 1, 4], "num_made": 4},
    {"candidates": [0, 1, 2], "num_made": 17},
    {"candidates": [0, 1, 65535], "num_made": 16},
    {"num_unsatisfied": 4},
    {"candidates": [0, 1, 2], "num_made": 15, "num_unsatisfied": 1},
)
"""What nobody can have chosen for any recipe here."""


STATUS = ("clock_ns", "images", "busy_s", "unfinished_s", "flops", "matrix_flops_per_s")
TRACE: dict[str, Any] = {"uncertainty_ns": 5, "stages": ["encode"], "threads": ["finish"], "flows": [2]}
EVENTS = ([], [0, 7, 5, 3, 0], [0, 7, 5, 3, 0] * 512, [0, 7, 5, 3, 0] * 513, [1, 7, 5, 3, 0], [0, 2**63 - 1, 1, 0, 0])


@dataclass
class Producer:
    """What the fuzz remembers of one producer, honest or not."""

    identity: bytes
    codec: str = "raw"
    seq: int = 0
    held: dict[int, Ticket] = field(default_factory=dict)


class RankUnderFire:
    """A rank with planned tickets, and producers that talk to it.

    Args:
        seed: of everything random.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.mutator = make_mutator(seed)
        self.hello = msgpack.unpackb(read_corpus()["HELLO"])
        self.outcomes: Counter[str] = Counter()
        self.misses: list[str] = []
        self.num_lives = 0
        self.begin_life()

    def begin_life(self) -> None:
        """A new machine, by turns for each order."""
        order = "ticket" if self.num_lives % 2 else "arrival"
        self.machine = RankMachine(
            run_id=RUN,
            incarnation=INCARNATION,
            rank=0,
            endpoints=("tcp://127.0.0.1:1",),
            expects=Expectation(model_digest=DIGEST),
            order=cast(Any, order),
            window_groups=12,
            window_bytes=WINDOW_BYTES,
            patience=Patience(max_quarantined=4),
            traces=bool(self.num_lives % 2),
        )
        # The door is the stream's own; it asks the socket for nothing.
        self.stream = GroupStream(cast(RankSocket, None), self.machine, StreamConfig())
        self.producers = [Producer(b"peer%d" % number, ("raw", "jpeg-92")[number % 2]) for number in range(4)]
        self.now, self.num_planned, self.num_lives = 0.0, 0, self.num_lives + 1
        self.delivered: set[int] = set()

    # --- one step -----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Throw one message, or let time pass; then judge."""
        self.now += self.rng.choice((0.0, 0.01, 0.3)) if self.rng.random() < 0.995 else 40.0
        while self.machine.room_for(self._ticket().recipe.nbytes):
            self.machine.plan(self._ticket())
            self.num_planned += 1
        producer = self.rng.choice(self.producers)
        frames = self._frames(producer)
        try:
            if self.rng.random() < 0.1:
                self._perform(self.machine.tick(self.now))
            if self.rng.random() < 0.002:
                self._perform(self.machine.on_unreachable(producer.identity))
            heard = self.stream._read(producer.identity, [memoryview(frame) for frame in frames])
            self._perform(self.stream._hear(producer.identity, heard, self.now))
            self._check_books()
        except Exception as error:  # noqa: BLE001 - what a fuzzer looks for
            shown = [frame[:100].hex() for frame in frames]
            self.misses.append(f"{error!r:.300} after {self.outcomes.total()} messages, at {shown}")
            self.begin_life()

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            self.outcomes[type(action).__name__] += 1
            match action:
                case Send():
                    self._on_send(action)
                case Deliver():
                    self._on_deliver(action)
                case Quarantine():
                    self.machine.stand_in(self._ticket(action.ticket.index, action.ticket.stand_in + 1))
                case Fail():
                    self.begin_life()
                    return

    def _on_send(self, send: Send) -> None:
        """Everything that a rank says must be a message that a producer can read."""
        self.outcomes[send.message.kind] += 1
        header = Header(run=RUN, incarnation=INCARNATION, seq=1)
        if decode(encode(send.message, header)) != (header, send.message):
            raise ValueError(f"the rank says what cannot be read: {send.message}")
        [producer] = [producer for producer in self.producers if producer.identity == send.peer]
        if isinstance(send.message, Tickets):
            peer = self.machine.peers[send.peer]
            if len(peer.held) > peer.credit_groups or peer.held_bytes > peer.credit_bytes:
                raise ValueError(f"{peer.name} is given more than its credit")
            producer.held |= {ticket.index: ticket for ticket in send.message.tickets}
        elif isinstance(send.message, Ack | Cancel):
            for key in send.message.attempts:
                producer.held.pop(key.index, None)
        elif isinstance(send.message, Nack):
            producer.held.pop(send.message.index, None)
        elif isinstance(send.message, Welcome):
            producer.held.clear()

    def _on_deliver(self, group: Deliver) -> None:
        index = group.ticket.index
        if index in self.delivered or index >= self.num_planned:
            raise ValueError(f"the group at {index} is delivered twice or was not asked for")
        self.outcomes["Deliver from JPEG"] += (coded := group.wire_bytes < group.ticket.recipe.nbytes)
        if bytes(group.payload) != (from_jpeg(jpeg_of(group.ticket)).tobytes() if coded else pixels_of(group.ticket)):
            raise ValueError(f"the group at {index} is not what an honest producer made")
        recipe, chosen = group.ticket.recipe, list(group.candidates)
        if recipe.is_filtered and not (chosen == sorted({*chosen}) and len(chosen) == recipe.num_images):
            raise ValueError(f"the group at {index} is said to be of the candidates {chosen}")
        if group.num_made > recipe.max_candidates or max(chosen, default=-1) >= max(group.num_made, 0):
            raise ValueError(f"of the group at {index} {group.num_made} candidates are said to be made: {chosen}")
        self.delivered.add(index)
        self.machine.take(index)

    def _check_books(self) -> None:
        machine = self.machine
        if machine.num_outstanding != sum(len(entry.holds) for entry in machine._table):
            raise ValueError("credits and live attempts do not agree")
        if machine.reserved_bytes > WINDOW_BYTES:
            raise ValueError(f"{machine.reserved_bytes} bytes are reserved")
        if len(machine.rejects.counts) > MAX_REJECT_KINDS:
            raise ValueError("the counts of rejects grow without end")

    # --- what is thrown -----------------------------------------------------------------------------------------------

    def _ticket(self, index: int | None = None, stand_in: int = 0) -> Ticket:
        index = self.num_planned if index is None else index
        images, height, width = SHAPES[index % len(SHAPES)]
        recipe = Recipe(
            prompt=f"prompt {index}",
            seed=index,
            num_images=images,
            guidance_scales=(1.0,),
            num_inference_steps=1,
            scheduler="default",
            height=height,
            width=width,
            model_digest=DIGEST,
            **(FILTER if index % 4 == 1 else {}),
        )
        return Ticket(index=index, rank=0, need_by_step=index, stand_in=stand_in, recipe=recipe)

    def _frames(self, producer: Producer) -> list[bytes]:
        draw = self.rng.random()
        if draw < 0.5:
            return self._plausible(producer)
        if draw < 0.8:
            return self._mutated(producer)
        return [self.mutator.frame() for _ in range(self.rng.choice((0, 1, 1, 1, 2, 3, 40)))]

    def _plausible(self, producer: Producer) -> list[bytes]:
        """What an honest producer might say, in no sensible order; groups broken now and then."""
        keys = [{"index": ticket.index, "attempt": ticket.attempt} for ticket in producer.held.values()]
        self.rng.shuffle(keys)
        poison = [key for key in keys if key["index"] % POISON == POISON - 1]
        if poison and self.rng.random() < 0.5:
            return [self._packed(producer, "NACK", poison[0] | {"reason": "poison", "retryable": False})]
        kind = self.rng.choice(
            ("HELLO", "READY", "STARTED", "HEARTBEAT", "STATUS", "TRACE", *["RESULT"] * 5, "NACK", "DRAIN", "BYE")
        )
        peer = self.machine.peers.get(producer.identity)
        if peer is None or peer.last_seq > producer.seq + 100 or not producer.held:
            # Otherwise the rank would soon listen to nobody.
            kind = "READY" if peer and peer.last_seq < producer.seq else "HELLO"
        elif kind in ("HELLO", "DRAIN", "BYE") and self.rng.random() < 0.8:
            kind = "HEARTBEAT"
        some = keys[: self.rng.randrange(4)]
        fields: dict[str, Any] = {
            "HELLO": {
                "producer": self.hello["producer"],
                "manifest": self.hello["manifest"] | {"codec": producer.codec},
            },
            "READY": {
                "credit_groups": self.rng.choice((0, 1, 8, 8)),
                "credit_bytes": self.rng.choice((100, 2000, 1 << 20)),
            },
            "STARTED": {"attempts": some},
            "HEARTBEAT": {"held": keys},
            "STATUS": {key: self.rng.choice((0, 1, 2**62)) for key in STATUS},
            "TRACE": TRACE | {"events": self.rng.choice(EVENTS)},
            "NACK": {"reason": "no", "retryable": self.rng.random() < 0.5},
            "DRAIN": {"returned": some, "reason": "SIGTERM"},
            "BYE": {"reason": "enough"},
            "RESULT": {},
        }[kind]
        if kind == "NACK":
            fields |= (some or [{"index": -1, "attempt": 0}])[0]
        if kind == "RESULT":
            return self._result(producer)
        return [self._packed(producer, kind, fields)]

    def _result(self, producer: Producer) -> list[bytes]:
        ticket = self.rng.choice(list(producer.held.values()))
        if ticket.recipe.shape == (*SHAPES[-1], 3) and self.rng.random() < (0.8 if producer.codec != "raw" else 0.1):
            return self._jpeg_result(producer, ticket)
        pixels = pixels_of(ticket)
        fields = {"shape": list(ticket.recipe.shape), "codec": "raw", "sizes": []} | choice_of(ticket)
        fields |= {"crc32": zlib.crc32(pixels), "seconds": 0.5}
        fields |= {"index": ticket.index, "attempt": ticket.attempt}
        frames = [pixels]
        match self.rng.randrange(24):
            case 0:
                frames = [bytes([pixels[0] ^ 1]) + pixels[1:]]
            case 1:
                frames = [pixels[:-1]]
            case 2:
                frames = [pixels + b"\x00"]
            case 3:
                frames = self.rng.choice(([], [pixels, pixels], [b""]))
            case 4:
                fields["shape"] = self.rng.choice(([1, 1, 1, 3], fields["shape"][::-1], [2**62, 4, 4, 3]))
            case 5:
                fields["attempt"] += 1
            case 6:
                frames, fields["crc32"] = [bytes(len(pixels))], zlib.crc32(bytes(len(pixels)))
            case 7:
                fields |= self.rng.choice(LIES)
        return [self._packed(producer, "RESULT", fields), *frames]

    def _jpeg_result(self, producer: Producer, ticket: Ticket) -> list[bytes]:
        """A group of one JPEG: whole, or broken under a checksum that is right."""
        jpeg = jpeg_of(ticket)
        sizes = [len(jpeg)]
        match self.rng.randrange(12):
            case 0:
                jpeg = jpeg[: self.rng.randrange(1, len(jpeg))]
            case 1:
                jpeg = claiming(jpeg, *self.rng.choice(((65500, 65500), (24, 33), (32, 24), (0, 0))))
            case 2:
                sizes = self.rng.choice(([], [1], [2**62] * 1024, [len(jpeg) // 2, len(jpeg) - len(jpeg) // 2]))
            case 3:
                jpeg = self.rng.randbytes(len(jpeg))
            case 4:
                jpeg = jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") :]
        if sizes == [len(jpeg_of(ticket))]:
            sizes = [len(jpeg)]
        fields = {"index": ticket.index, "attempt": ticket.attempt, "shape": list(ticket.recipe.shape)}
        fields |= choice_of(ticket)
        fields |= {"codec": "jpeg", "sizes": sizes, "crc32": zlib.crc32(jpeg), "seconds": 0.5}
        return [self._packed(producer, "RESULT", fields), jpeg]

    def _packed(self, producer: Producer, kind: str, fields: dict[str, Any]) -> bytes:
        producer.seq += self.rng.choice((1, 1, 1, 1, 1, 1, 1, 1, 0, -1, 5))
        producer.seq = max(0, producer.seq)
        header = {"v": PROTOCOL_VERSION, "t": kind, "run": RUN, "inc": INCARNATION, "seq": producer.seq} | fields
        if self.rng.random() < 0.02:
            header["inc"] -= 1
        return cast(bytes, msgpack.packb(header))

    def _mutated(self, producer: Producer) -> list[bytes]:
        """A plausible message after the mutator's hands: its fences are right, the rest is not."""
        frames = self._plausible(producer)
        tree = self.mutator.mutated(msgpack.unpackb(frames[0]))
        return [tree, *frames[1:]]


def choice_of(ticket: Ticket) -> dict[str, Any]:
    """What an honest producer says of the filter: the first candidates are good enough."""
    recipe = ticket.recipe
    if not recipe.is_filtered:
        return {"candidates": [], "num_made": 0, "num_unsatisfied": 0}
    made = recipe.num_candidates
    return {"candidates": list(range(recipe.num_images)), "num_made": made, "num_unsatisfied": 0}


def pixels_of(ticket: Ticket) -> bytes:
    """What an honest producer makes of a ticket, stand-ins included."""
    recipe = ticket.recipe
    return bytes((recipe.seed + offset) % 255 + 1 for offset in range(recipe.nbytes))


def jpeg_of(ticket: Ticket) -> bytes:
    """What an honest producer of JPEGs makes of a ticket for one image."""
    return to_jpeg(np.frombuffer(pixels_of(ticket), np.uint8).reshape(ticket.recipe.shape)[0])


def fuzz(num_messages: int, seed: int) -> RankUnderFire:
    """Throw `num_messages` messages."""
    fire = RankUnderFire(seed)
    for number in range(1, num_messages + 1):
        fire.step()
        if number % MESSAGES_PER_LIFE == 0:
            fire.begin_life()
    return fire


def main() -> int:
    """Throw messages, print what came of them; 1 where the rank failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.monotonic()
    fire = fuzz(args.messages, args.seed)
    seconds = time.monotonic() - started
    lines = [f"{args.messages:,} messages to a rank in {seconds:.0f} s, {args.messages / seconds:,.0f} messages/s"]
    lines += [f"  {what:<12} {count:>9,}" for what, count in fire.outcomes.most_common()]
    lines += [f"MISS {miss}" for miss in fire.misses[:20]]
    lines.append(f"{len(fire.misses)} misses" if fire.misses else f"no miss in {fire.num_lives} lives of the rank")
    sys.stdout.write("\n".join(lines) + "\n")
    return bool(fire.misses)


if __name__ == "__main__":
    sys.exit(main())
