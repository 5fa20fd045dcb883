"""Penstock with keys: as `over_penstock.py`, encrypted and authenticated by CURVE."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from baselines import over_penstock
from baselines.sender import Get, Shape
from penstock.protocol import key_files
from penstock.protocol.keys import ALLOWED, TRAINER_KEY, make_pair, trainer_text


@contextmanager
def groups(shape: Shape) -> Iterator[Get]:
    """See the package."""
    with tempfile.TemporaryDirectory(prefix="penstock-keys-") as name:
        folder = Path(name)
        key_files.write_new(folder / TRAINER_KEY, trainer_text(make_pair()))
        key_files.write_new(folder / ALLOWED, "")
        with over_penstock.groups(shape, folder) as get:
            yield get
