"""The wall clock: the one place of the application that reads it."""

import time

__all__ = ["now_ns"]


def now_ns() -> int:
    """The present by the machine's clock, ns since the Unix epoch; it may go back."""
    return time.time_ns()  # noqa: TID251 - live runs stamp their inputs with it, once
