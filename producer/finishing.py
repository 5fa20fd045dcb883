"""Makes finished batches ready to travel, in a thread of its own, while the engine begins the next."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

from penstock.producer.engine import Chosen, Images, Pending
from penstock.producer.work import Work
from penstock.protocol.checksum import crc32
from penstock.protocol.errors import ModelError
from penstock.protocol.image_codec import JPEG, CodedImages, encode_images
from penstock.protocol.links import HeldTicket
from penstock.protocol.messages import NO_CHOICE, Choice
from penstock.protocol.tickets import Manifest
from penstock.telemetry.recorder import Flow, Recorder

_log = logging.getLogger(__name__)

_SLICE_S = 0.2
"""How often whoever waits looks whether it still should."""
_REPORT_S = 60.0
"""How often the log says what has been made."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A batch that the device works on."""

    batch: Sequence[HeldTicket]
    pending: Pending
    at: float
    """When it was begun, on the performance counter."""


class Finisher:
    """Waits for the device, encodes, takes checksums. Never more than one batch is ahead of it.

    Its thread is a daemon's: a device that hangs must not keep the process from ending.

    Args:
        work: learns when a batch is finished; whoever begins one says that it begins.
        jpeg_quality: 1 to 100, or None where images travel raw.
        deliver: takes a group that is ready: its ticket, the images, their checksum, the seconds that it took, and what
            a filter chose.
        refuse: takes tickets that cannot be made, and why.
        broke: takes the error that ends the thread.
        recorder: takes note of how long it waits, and encodes.
    """

    def __init__(
        self,
        work: Work,
        jpeg_quality: int | None,
        deliver: Callable[[HeldTicket, CodedImages, int, float, Choice], None],
        refuse: Callable[[Sequence[HeldTicket], str], None],
        broke: Callable[[BaseException], None],
        recorder: Recorder,
    ) -> None:
        self._recorder = recorder
        self._work = work
        self._jpeg_quality = jpeg_quality
        self._deliver = deliver
        self._refuse = refuse
        self._broke = broke
        self._changed = threading.Condition()
        self._begun: Begun | None = None
        self._closing = False
        self._done_at = self._reported_at = time.perf_counter()
        self._thread = threading.Thread(target=self._run, name="penstock-finish", daemon=True)
        self._thread.start()

    def put(self, begun: Begun, gives_up: Callable[[], bool]) -> None:
        """Hand over a batch; waits until the one before is finished, the thread has ended, or `gives_up` says so."""
        with self._changed:
            while self._begun is not None:
                if gives_up() or not self._thread.is_alive():
                    return
                self._changed.wait(timeout=_SLICE_S)
            self._begun = begun
            self._changed.notify_all()

    def close(self, patience_s: float) -> None:
        """Finish what was handed over, for at most so long; what is not done then is left behind."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._begun is None:
                    if self._closing:
                        return
                    self._changed.wait()
                begun = self._begun
            try:
                self._finish(begun)
            except BaseException as error:  # noqa: BLE001 - a thread's edge: the main thread raises it
                self._refuse(begun.batch, f"its engine broke: {error!r:.200}")
                self._broke(error)
                return
            with self._changed:
                self._begun = None
                self._changed.notify_all()

    def _finish(self, begun: Begun) -> None:
        with self._recorder.span("finish"):
            made = begun.pending()
        now = time.perf_counter()
        # The device takes up a batch when it has done the one before.
        seconds, self._done_at = now - max(begun.at, self._done_at), now
        if not begun.batch[0].ticket.probe:
            self._work.end()
        for held, outcome in zip(begun.batch, made, strict=True):
            if isinstance(outcome, ModelError):
                self._refuse([held], str(outcome))
            else:
                self._work.groups += not held.ticket.probe
                self._encode(held, outcome, seconds / len(begun.batch))
        if now - self._reported_at >= _REPORT_S:
            self._reported_at = now
            _log.info("made so far: %s", self._work.describe())

    def _encode(self, held: HeldTicket, made: Images | Chosen, seconds: float) -> None:
        images, choice = (made.images, made.choice) if isinstance(made, Chosen) else (made, NO_CHOICE)
        with self._recorder.span("encode", held.ticket.index, held.ticket.attempt, Flow.STEP):
            coded = encode_images(images, self._jpeg_quality)
            checksum = crc32(coded.payload)
        self._deliver(held, coded, checksum, seconds, choice)


def on_its_way(manifest: Manifest, jpeg_quality: int | None) -> Manifest:
    """An engine's manifest, and what becomes of its pixels on their way; `jpeg_quality` as in `Finisher`."""
    if jpeg_quality is None:
        return manifest
    versions = manifest.versions | {"simplejpeg": version("simplejpeg")}
    return replace(manifest, codec=f"{JPEG}-{jpeg_quality}", versions=versions)
