"""Machine code: the two ways in which the loop's functions are compiled.

Only ``loop.run`` is kept in numba's cache; these are compiled into it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

__all__ = ["compiled", "inlined"]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function that is called from many places."""
    return cast(Function, njit(function))


def inlined(function: Function) -> Function:
    """Put a function in its place where it is called from: that saves compiling it by itself."""
    return cast(Function, njit(inline="always")(function))
