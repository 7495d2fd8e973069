"""The shape of every operator."""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from reactivex import Observable

__all__ = ["Operator"]

Source = TypeVar("Source")
Result = TypeVar("Result")

Operator: TypeAlias = Callable[[Observable[Source]], Observable[Result]]
"""A function from one observable to another: what ``pipe`` takes."""
