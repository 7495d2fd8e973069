"""What a recording or a run was made with."""

import importlib.metadata
import platform
from functools import cache

from marblemaker import __version__

__all__ = ["versions"]

_PACKAGES = ("msgspec", "numpy", "polars", "pyarrow", "reactivex")


def versions(*more: str) -> dict[str, str]:
    """Versions of the program, of Python, and of the packages that shape results.

    ``more`` names further packages; one that is not installed as a package is ``unknown``.
    """
    found = {"marblemaker": __version__, "python": platform.python_version()}
    return found | {name: _version_of(name) for name in (*_PACKAGES, *more)}


@cache
def _version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
