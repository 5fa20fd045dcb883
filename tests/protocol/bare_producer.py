"""A producer written from docs/protocol.md alone: pyzmq, msgpack and the standard library, nothing of Penstock.

Its engine paints each image in one colour, the last three bytes of the image's seed. `python bare_producer.py ENDPOINT`
serves one run and ends with its farewell.
"""

import hashlib
import sys
import time
import zlib
from typing import Any

import msgpack
import zmq

MANIFEST = {
    "model": "one colour",
    "model_digest": "c0105",
    "scheduler": "none",
    "dtype": "uint8",
    "backend": "bare",
    "device": "any",
    "batch_images": 8,
    "settings": {},
    "codec": "raw",
    "scorer": "",
    "versions": {},
}


def image_seed(seed: int, image: int) -> int:
    text = "\x1f".join(("image", str(seed), str(image)))
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"penstock").digest()
    return int.from_bytes(digest, "big") >> 1


def paint(recipe: dict[str, Any]) -> bytes:
    seeds = (image_seed(recipe["seed"], image) for image in recipe["candidates"] or range(recipe["num_images"]))
    return b"".join(seed.to_bytes(8, "big")[-3:] * (recipe["height"] * recipe["width"]) for seed in seeds)


class Link:
    """The talk with one rank."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.setsockopt(zmq.LINGER, 1000)
        self.socket.connect(endpoint)
        self.run, self.inc, self.seq = "", 0, 0
        self.state, self.every_s, self.said_at = "HELLO", 1.0, 0.0
        self.queue: list[dict[str, Any]] = []
        self.sent: list[dict[str, int]] = []

    def say(self, kind: str, *pixels: bytes, **fields: object) -> None:
        self.seq += 1
        header = {"v": 4, "t": kind, "run": self.run, "inc": self.inc, "seq": self.seq} | fields
        try:
            self.socket.send_multipart([msgpack.packb(header), *pixels], zmq.NOBLOCK)
        except zmq.Again:
            return  # nobody is there yet

    def tick(self, now: float) -> None:
        if now - self.said_at < self.every_s or self.state == "GONE":
            return
        self.said_at = now
        if self.state == "HELLO":
            self.run, self.inc = "", 0
            self.say("HELLO", producer="bare", manifest=MANIFEST)
        else:
            self.say("HEARTBEAT", held=[*map(name_of, self.queue), *self.sent])

    def hear(self, frame: bytes) -> list[str]:
        """Take one message; returns the addresses to dial."""
        said = msgpack.unpackb(frame)
        if said["t"] == "WELCOME":
            self.run, self.inc, self.state = said["run"], said["inc"], "READY"
            self.every_s = said["heartbeat_ms"] / 1000
            self.say("READY", credit_groups=8, credit_bytes=1 << 24)
            return list(said["endpoints"])
        if said["t"] == "TICKETS":
            self.queue += said["tickets"]
        elif said["t"] == "CANCEL":
            self.queue = [ticket for ticket in self.queue if name_of(ticket) not in said["attempts"]]
            self.say("READY", credit_groups=8, credit_bytes=1 << 24)
        elif said["t"] == "HEARTBEAT":
            self.queue = [ticket for ticket in self.queue if name_of(ticket) in said["held"]]
        elif said["t"] == "ACK":
            self.sent = [key for key in self.sent if key not in said["attempts"]]
        elif said["t"] == "NACK" and said["index"] >= 0:
            self.sent = [key for key in self.sent if key != name_of(said)]
        elif said["t"] == "NACK" and said["retryable"]:
            self.state, self.queue, self.sent = "HELLO", [], []
        elif said["t"] == "BYE":
            self.say("BYE", reason="the rank left")
            self.state = "GONE"
        elif said["t"] == "REJECT":
            sys.exit(said["reason"])
        return []

    def work(self, ticket: dict[str, Any]) -> None:
        self.queue.remove(ticket)
        key, recipe = name_of(ticket), ticket["recipe"]
        self.say("STARTED", attempts=[key])
        started, pixels = time.monotonic(), paint(recipe)
        self.sent.append(key)
        shape = [recipe["num_images"], recipe["height"], recipe["width"], 3]
        figures = {"shape": shape, "crc32": zlib.crc32(pixels), "seconds": time.monotonic() - started}
        self.say(
            "RESULT", pixels, codec="raw", sizes=[], candidates=[], num_made=0, num_unsatisfied=0, **key, **figures
        )


def name_of(ticket: dict[str, Any]) -> dict[str, int]:
    return {"index": ticket["index"], "attempt": ticket["attempt"]}


def serve(endpoint: str) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    links = {endpoint: Link(context, endpoint)}
    while any(link.state != "GONE" for link in links.values()):
        for link in tuple(links.values()):
            link.tick(time.monotonic())
            while link.state != "GONE" and link.socket.poll(10):
                for address in link.hear(link.socket.recv_multipart()[0]):
                    if address not in links:
                        links[address] = Link(context, address)
        waiting = [(t["need_by_step"], t["index"], t, link) for link in links.values() for t in link.queue]
        if waiting:
            _, _, ticket, link = min(waiting, key=lambda entry: entry[:2])
            link.work(ticket)
    for link in links.values():
        link.socket.close()
    context.term()


if __name__ == "__main__":
    serve(sys.argv[1])
