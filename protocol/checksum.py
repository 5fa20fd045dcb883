"""The checksum over a group's pixels: CRC-32 of IEEE 802.3, as zlib's.

ISA-L computes it with carry-less multiplication, four times as fast as zlib or more, and both sides of the wire do it
for every group. Where there is no ISA-L, zlib gives the same number.
"""

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
