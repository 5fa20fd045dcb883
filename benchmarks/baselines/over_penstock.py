"""Penstock itself: a real producer service and a real rank's stream, with an engine that has its images ready.

Tickets, leases, checksums on both sides, validation and acknowledgements, with the default settings of both programs.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from baselines.sender import WAIT_S, Get, Shape, ready_groups, running
from penstock.consumer.config import StreamConfig
from penstock.consumer.stream import GroupStream
from penstock.producer.config import ProduceConfig
from penstock.producer.engine import Pending
from penstock.producer.service import ProducerService
from penstock.producer.work import Work
from penstock.protocol.admission import Expectation
from penstock.protocol.dispatcher import Patience
from penstock.protocol.errors import RunError
from penstock.protocol.keys import TRAINER_KEY, TrainerKeys, read_trainer_keys
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.sockets import RankSocket
from penstock.protocol.tickets import Manifest, Recipe, Ticket, group_seed

MODEL_DIGEST = "1196"


class ReadyEngine:
    """An engine whose images are ready: group `index` is the ready-made one of that number, in rotation."""

    def __init__(self, shape: Shape, batch_images: int) -> None:
        self.work = Work()
        self._arrays = ready_groups(shape)
        self.manifest = Manifest(
            model="ready-made",
            model_digest=MODEL_DIGEST,
            scheduler="none",
            dtype="uint8",
            backend="numpy",
            device="cpu",
            batch_images=batch_images,
            versions={},
        )

    def load(self) -> None:
        """It is loaded."""

    def company(self, ticket: Ticket) -> Hashable:
        """See `penstock.producer.engine.Engine`."""
        return None

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        """See `penstock.producer.engine.Engine`."""
        groups = [self._arrays[ticket.index % len(self._arrays)] for ticket in tickets]
        return lambda: [*groups]


def ticket(index: int, shape: Shape) -> Ticket:
    """The ticket of one group, with a caption of common length."""
    num_images, height, width, _ = shape
    recipe = Recipe(
        prompt=f"a wooden boat numbered {index} on a quiet lake in the morning, mountains in the background",
        seed=group_seed(0, 0, index),
        num_images=num_images,
        guidance_scales=(2.0,),
        num_inference_steps=50,
        scheduler="default",
        height=height,
        width=width,
        model_digest=MODEL_DIGEST,
    )
    return Ticket(index=index, rank=0, need_by_step=index, recipe=recipe)


def send(endpoint: str, shape: Shape, key: str = "") -> None:
    """The sender process: serves until the rank says BYE."""
    config = ProduceConfig(connect=endpoint, trainer_timeout_s=WAIT_S, key=key)
    ProducerService(config, ReadyEngine(shape, config.batch_images)).run()


def open_stream(recipe: Recipe, keys: TrainerKeys | None = None) -> tuple[GroupStream, str]:
    """A rank's stream for groups like that of `recipe`, and its address."""
    config = StreamConfig(endpoint="tcp://127.0.0.1:0", producer_timeout_s=WAIT_S, warmup_timeout_s=WAIT_S)
    socket = RankSocket(config.endpoint, group_bytes=recipe.nbytes, keys=keys)
    machine = RankMachine(
        run_id="benchmark",
        incarnation=1,
        rank=0,
        endpoints=(socket.endpoint,),
        keys=(socket.key,) if keys else (),
        expects=Expectation(model_digest=recipe.model_digest),
        window_groups=config.window_groups,
        window_bytes=config.window_bytes,
        patience=Patience(),
    )
    return GroupStream(socket, machine, config), socket.endpoint


def no_stand_in(ticket: Ticket) -> Ticket:
    """Nothing stands in for a group that was not made."""
    raise RunError(f"ticket {ticket.index} was not made")


@contextmanager
def groups(shape: Shape, keys: Path | None = None) -> Iterator[Get]:
    """See the package; with the keys of a folder that has the trainer's alone, which its own producers use, too."""
    stream, endpoint = open_stream(ticket(0, shape).recipe, read_trainer_keys(keys) if keys else None)
    with running(send, endpoint, shape, str(keys / TRAINER_KEY) if keys else "", ends_itself_s=5.0):
        stream.start()
        stream.ask((ticket(index, shape) for index in count()), no_stand_in)
        try:
            yield lambda: stream.get().images
        finally:
            stream.close("the benchmark is over")
