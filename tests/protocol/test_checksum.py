"""The checksum is the one that every language's zlib has."""

import builtins
import importlib
import zlib
from typing import Any

import numpy as np
import pytest

from penstock.protocol import checksum


@pytest.mark.parametrize("num_bytes", [0, 1, 63, 64, 65, 4096, 100_003])
def test_it_is_zlibs(num_bytes: int) -> None:
    data = np.random.default_rng(num_bytes).integers(0, 256, num_bytes, np.uint8).tobytes()
    assert checksum.crc32(data) == zlib.crc32(data)
    assert checksum.crc32(memoryview(data)) == zlib.crc32(data)


def test_the_check_value_is_that_of_the_standard() -> None:
    """CRC-32/ISO-HDLC, the RevEng catalogue: of "123456789"."""
    assert checksum.crc32(b"123456789") == 0xCBF43926


def test_without_the_fast_library_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("isal"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    try:
        assert importlib.reload(checksum).crc32 is zlib.crc32
    finally:
        monkeypatch.undo()
        importlib.reload(checksum)
