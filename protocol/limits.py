"""Limits on everything that comes from the wire, checked before anything is allocated for it.

msgpack stays within `max_*_len` only if it is told to: eight MiB of empty maps became 579 MiB without.
"""

from typing import Final

PROTOCOL_VERSION: Final = 4

MAX_HEADER_BYTES: Final = 1 << 20
"""Bytes of one msgpack header. A TICKETS message with 64 long prompts fits; anything larger is hostile or broken."""

MAX_TICKETS_PER_MESSAGE: Final = 64
"""Tickets in one message; more go in several."""

MAX_PER_IMAGE_VALUES: Final = 1 << 14
"""Guidance scales and candidates of all recipes in one message; tickets that have more go in several."""

MAX_GROUP_BYTES: Final = 1 << 30
"""Bytes of one group's raw buffer: 64 images of 2048² fit with room to spare."""

MAX_PROMPT_BYTES: Final = 8192
"""UTF-8 bytes of one prompt."""

MAX_NAME_LENGTH: Final = 200
"""Characters of a name: of a producer, a model, a device."""

MAX_REASON_LENGTH: Final = 1000
"""Characters of a reason; a longer one is cut by its sender and by its reader."""

MAX_STRING_BYTES: Final = 8192
"""UTF-8 bytes of any other string in a header."""

MAX_LIST_LENGTH: Final = 4096
"""Entries of any list or map in a header: held tickets, tickets in one message, ranks of a run."""

MAX_VALUES: Final = 1 << 15
"""Keys and values in one header, counted over all levels: lists of lists of empty maps cost 64 times their bytes."""

MAX_VERSIONS: Final = 64
"""Libraries that a manifest may name, and as many settings."""

MAX_RANKS: Final = 1024
"""Ranks of a run; a producer has a socket for each."""

MAX_PRODUCERS: Final = 4096
"""Producers of one rank at a time. So many cost it a third of a core even where they do nothing, and 80 MB."""

KEY_LENGTH: Final = 40
"""Characters of a CURVE key as text."""

MAX_TRACE_EVENTS: Final = 512
"""Events in one TRACE; more go in several."""

MAX_TRACE_KINDS: Final = 64
"""Kinds of events in one TRACE."""

MAX_NESTING: Final = 6
"""Levels of maps and lists in a header."""

MAX_IMAGES_PER_GROUP: Final = 1024
"""Images of one group (m)."""

MAX_CANDIDATES: Final = 1 << 16
"""Images that may be made and scored for one group; candidates are numbered from 0."""

MAX_GUIDANCE_SCALE: Final = 1000
"""Largest guidance scale of an image."""

MAX_IMAGE_SIDE: Final = 8192
"""Pixels of one side of an image."""

MAX_INFERENCE_STEPS: Final = 10_000
"""Denoising steps of one image."""

MAX_INT: Final = (1 << 63) - 1
"""Largest integer in a header: what fits a signed 64-bit field in any language."""
