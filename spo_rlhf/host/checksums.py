"""Checksums of large files: what they hold is what was written, at the speed at which it can be read."""

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

BLOCK = 64 << 20  # bytes; a checksum depends on it, so it is part of the form of what is stored
BUFFER = 1 << 20  # bytes that a thread holds
MOST_THREADS = 16


class Content(NamedTuple):
    """Of a file: bytes, and eight hexadecimal digits."""

    size: int
    checksum: str


def contents(paths: Sequence[Path]) -> list[Content]:
    """Size and checksum of each file: the CRC-32 of the CRC-32s (4 bytes each, the most significant first) of its blocks.

    Blocks are read by threads, also those of one file. Who changes a file on purpose can keep its checksum.

    Raises:
        OSError: names the file that cannot be read.
    """
    sizes = [path.stat().st_size for path in paths]
    blocks = [(path, start) for path, size in zip(paths, sizes, strict=True) for start in range(0, size, BLOCK)]
    threads = max(1, min(MOST_THREADS, len(os.sched_getaffinity(0)), len(blocks)))
    with ThreadPoolExecutor(threads) as pool:  # zlib and reading release the interpreter's lock
        sums = iter(list(pool.map(_checksum, *zip(*blocks, strict=True)) if blocks else ()))
    whole = [b"".join(next(sums).to_bytes(4, "big") for _ in range(0, size, BLOCK)) for size in sizes]
    return [Content(size, f"{zlib.crc32(parts):08x}") for size, parts in zip(sizes, whole, strict=True)]


def _checksum(path: Path, start: int) -> int:
    """CRC-32 of the block of a file that begins at `start`."""
    buffer, found, left = memoryview(bytearray(BUFFER)), 0, BLOCK
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            while left and (read := file.readinto(buffer[: min(left, BUFFER)])):
                found, left = zlib.crc32(buffer[:read], found), left - read
    except OSError as error:  # of reading, which names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    return found
