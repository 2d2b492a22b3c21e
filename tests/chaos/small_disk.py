"""A disk of its own for a test, small enough to be filled."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

MB = 1 << 20


@contextlib.contextmanager
def mounted(folder: Path, megabytes: int = 64) -> Iterator[bool]:
    """Within the block the folder, which is made, is a disk of that size; False where this user may not mount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Somebody else's file takes all but so many bytes; the file."""
    path = folder / "of somebody else"
    with open(path, "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(MB)) == MB:
                pass
        file.truncate(max(0, file.tell() - leave))
    free = os.statvfs(folder)
    print(f"injected: {folder} has {free.f_bavail * free.f_frsize} bytes left")
    return path
