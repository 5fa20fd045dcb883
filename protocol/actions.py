"""What a state machine asks its shell to do. The machines decide, the shells act."""

from dataclasses import dataclass

from penstock.protocol.messages import Message
from penstock.protocol.tickets import Manifest, Ticket
from penstock.protocol.watching import Trace

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Send:
    """Send `message` to `peer`; a RESULT's pixels go as a frame of their own."""

    peer: bytes
    message: Message
    payload: Buffer | None = None


@dataclass(frozen=True, slots=True)
class Deliver:
    """A ticket's group has arrived and is whole: uint8 pixels of shape `ticket.recipe.shape` in `payload`."""

    ticket: Ticket
    payload: Buffer
    producer: str
    manifest: Manifest
    wire_bytes: int
    """Bytes that travelled for them: fewer than the payload's where a codec made them so."""
    candidates: tuple[int, ...] = ()
    """Which of the ticket's candidates a filter chose; empty where it asks for none."""
    num_made: int = 0
    """Candidates that were made and scored for it; 0 without a filter."""
    num_unsatisfied: int = 0
    """Images of it that the filter had rejected."""
    crc32: int = 0
    """CRC-32 of the frame as it was sent."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A producer has told of events; the shell keeps them for the trace."""

    peer: bytes
    producer: str
    trace: Trace


@dataclass(frozen=True, slots=True)
class Quarantine:
    """No producer could make this ticket; the shell gives the machine a stand-in, and keeps a record."""

    ticket: Ticket
    """As it was last handed out."""
    reason: str
    """The last failure."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Dial a rank of the run; again where it is dialled already, with another key or because it does not answer."""

    endpoint: str
    key: str = ""
    """Its public CURVE key; empty for the one that this producer was given, or where the link has none."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Hang up after what is still to be said: nobody is there any more, or the rank is reached by another address."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something that an operator wants to read in the log."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Fail:
    """The machine cannot go on; the shell raises RunError with this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Every rank has said BYE, or has refused this producer; the shell ends."""

    reason: str
    rejected: bool = False


Action = Send | Deliver | Traced | Quarantine | Connect | Disconnect | Note | Fail | Finished
