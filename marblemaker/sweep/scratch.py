"""Scratch: where a replay writes what nobody keeps; in memory if it is small."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["clean_up", "leave", "scratch_folder"]

_SHARED_MEMORY: Final = Path("/dev/shm")
_SMALL_BYTES: Final = 16 * 1024 * 1024
"""A recording up to this size is replayed in shared memory; a run is about as large as it."""
_PREFIX: Final = "marble-sweep-"

_roots: dict[Path, tuple[Path, int]] = {}


@contextlib.contextmanager
def scratch_folder(recording: Path) -> Iterator[Path]:
    """A folder for one replay of ``recording``, gone afterwards."""
    size = sum(path.stat().st_size for path in recording.iterdir() if path.is_file())
    place = _place(size)
    if place not in _roots:
        clean_up()
        _roots[place] = _new_root(place)
    folder = Path(tempfile.mkdtemp(dir=_roots[place][0]))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def leave() -> None:
    """Remove all that this process has written."""
    for root, _ in _roots.values():
        shutil.rmtree(root, ignore_errors=True)


def clean_up() -> None:
    """Remove what processes left behind that were killed: nobody holds its lock any more."""
    for place in {_SHARED_MEMORY, Path(tempfile.gettempdir())}:
        for root in place.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                lock = os.open(root, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(root, ignore_errors=True)
                finally:
                    os.close(lock)


def _place(size: int) -> Path:
    if size <= _SMALL_BYTES and _SHARED_MEMORY.is_dir():
        with contextlib.suppress(OSError):
            if shutil.disk_usage(_SHARED_MEMORY).free > 8 * max(size, 1 << 20):
                return _SHARED_MEMORY
    return Path(tempfile.gettempdir())


def _new_root(place: Path) -> tuple[Path, int]:
    """Make a folder and hold its lock for as long as this process lives."""
    while True:
        root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        with contextlib.suppress(OSError):
            lock = os.open(root, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Someone who cleans up may have come between; then there is no such folder now.
            if root.exists():
                return root, lock
            os.close(lock)
