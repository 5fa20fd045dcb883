"""docs/protocol.md is enough: a producer that was written from it alone serves a real rank."""

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from penstock.consumer.config import StreamConfig
from penstock.consumer.stream import GroupStream
from penstock.protocol.admission import Expectation
from penstock.protocol.dispatcher import Patience
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.sockets import RankSocket
from penstock.protocol.tickets import Recipe, Ticket


def _tickets(count: int) -> Iterator[Ticket]:
    for index in range(count):
        recipe = Recipe(
            prompt=f"prompt {index}",
            seed=1000 + index,
            num_images=3,
            guidance_scales=(1.0,),
            num_inference_steps=1,
            scheduler="default",
            height=4,
            width=5,
            model_digest="c0105",
        )
        yield Ticket(index=index, rank=0, need_by_step=index, recipe=recipe)


def _colour(seed: int, image: int) -> list[int]:
    """By the page's definition of seeds, and the stranger's of pixels."""
    blake = hashlib.blake2b(f"image\x1f{seed}\x1f{image}".encode(), digest_size=8, person=b"penstock").digest()
    return list((int.from_bytes(blake, "big") // 2).to_bytes(8, "big")[-3:])


def test_a_producer_that_knows_only_the_page_serves_a_real_rank() -> None:
    script = Path(__file__).with_name("bare_producer.py")
    assert "penstock" not in re.findall(r"^(?:import|from) (\w+)", script.read_text(), re.M)
    socket = RankSocket("tcp://127.0.0.1:0")
    machine = RankMachine(
        run_id="run",
        incarnation=1,
        rank=0,
        endpoints=(socket.endpoint,),
        expects=Expectation(),
        order="ticket",
        window_groups=8,
        window_bytes=1 << 24,
        patience=Patience(),
    )
    stream = GroupStream(socket, machine, StreamConfig(producer_timeout_s=30))
    stream.start()
    producer = subprocess.Popen([sys.executable, "-I", str(script), socket.endpoint], stderr=subprocess.PIPE, text=True)
    try:
        stream.ask(_tickets(20), lambda ticket: ticket)
        for index in range(20):
            group = stream.get()
            assert group.ticket.index == index
            assert group.images.shape == (3, 4, 5, 3)
            for image in range(3):
                assert (group.images[image] == _colour(1000 + index, image)).all()
        assert stream.stats.rejected == 0
        assert not stream.look().refused
        stream.close("the test is over")
        assert producer.wait(timeout=20) == 0
        assert producer.stderr is not None
        assert producer.stderr.read() == ""
    finally:
        stream.close("the test has failed")
        producer.kill()
        producer.wait(timeout=10)
