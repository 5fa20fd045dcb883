"""Every error that Penstock raises on purpose, so that a user meets one clear line and a caller can catch by kind.

PenstockError                 a line for the user, and the exit status of a program that ends by it
├── ConfigError               a configuration, flag or path that cannot be used
├── EndpointError             an address that cannot be bound or reached
├── KeyFileError              a key that is missing, malformed or open to others
├── ModelError                a generator that cannot be loaded or cannot serve the run
├── RejectedError             a rank refused this producer, or this producer refused a rank
├── StarvedError              a wait for groups, for a producer or for a trainer ran out
├── ImageSetError             an image of a set that cannot be read
├── RunError                  a run that cannot go on: its folder, its checkpoint, its numbers
└── MessageError              bytes from the wire that are not a message of this protocol
    └── VersionError          a message of another protocol version
"""


class PenstockError(Exception):
    """Base of all errors with a message meant for the user: what, where, and what to do, in one line."""

    exit_code = 1


class ConfigError(PenstockError):
    """A configuration file, flag or path that cannot be used."""

    exit_code = 2


class EndpointError(PenstockError):
    """An address that cannot be parsed, bound or connected to."""


class KeyFileError(PenstockError):
    """A key file, or a list of allowed keys, that is missing, malformed or open to others."""

    exit_code = 2


class ModelError(PenstockError):
    """A generator that cannot be loaded, or that cannot make what the run asks for."""


class RejectedError(PenstockError):
    """A rank refused this producer at HELLO."""


class StarvedError(PenstockError):
    """A bounded wait for groups, for a producer or for a trainer ran out."""


class RunError(PenstockError):
    """A run that cannot start or go on: its folder is taken, its checkpoint is broken, its loss is not a number."""


class ImageSetError(PenstockError):
    """An image of a set that cannot be read.

    Attributes:
        name: of the set.
        key: of the image's row.
    """

    def __init__(self, name: str, key: str, why: str) -> None:
        super().__init__(f"{name}: {key}: {' '.join(why.split())}")
        self.name = name
        self.key = key


class MessageError(PenstockError):
    """Bytes from the wire that are not a message of this protocol.

    Attributes:
        reason: a short stable word (`truncated`, `unknown_field`, ...) that metrics count by.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class VersionError(MessageError):
    """A message of another protocol version.

    Attributes:
        theirs: the version that the message states, as text for people.
    """

    def __init__(self, theirs: str, ours: int) -> None:
        super().__init__(
            "version",
            f"the other side speaks protocol version {theirs}, this side {ours}; install the same penstock on both",
        )
        self.theirs = theirs
