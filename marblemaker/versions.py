"""What a recording or a run was made with."""

import importlib.metadata
import platform

from marblemaker import __version__

__all__ = ["versions"]

_PACKAGES = ("msgspec", "numpy", "polars", "reactivex")


def versions(*more: str) -> dict[str, str]:
    """Versions of the program, of Python, and of the packages that shape results.

    ``more`` names further packages; one that is not installed as a package is ``unknown``.
    """
    found = {"marblemaker": __version__, "python": platform.python_version()}
    for name in (*_PACKAGES, *more):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
