"""Combine latest: the newest of two streams, whenever either speaks."""

from typing import TypeVar, cast

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable

from operators.operator import Link, link
from operators.tap import Tape

__all__ = ["combine_latest"]

Left = TypeVar("Left")
Right = TypeVar("Right")

_NOTHING = object()


def combine_latest(
    left: Observable[Left],
    right: Observable[Right],
    *,
    left_tape: Tape | None = None,
    right_tape: Tape | None = None,
) -> Observable[tuple[Left, Right]]:
    """Pair the latest of two streams each time either emits, as ``reactivex.combine_latest`` does.

    reactivex's own takes a lock for every item, a fifth of what an event costs in the whole graph.
    Here everything runs on one thread. Use it between independent sources only: on two branches of
    one source it shows pairs that never existed.

    ``left_tape`` and ``right_tape`` are where what arrives is written down: ``operators.tap``
    without an operator's cost.

    Shape: one out per input once both have spoken, synchronous; completes when both have, fails
        with the first that fails.
    """

    def subscribe(
        observer: abc.ObserverBase[tuple[Left, Right]],
        scheduler: abc.SchedulerBase | None = None,
    ) -> abc.DisposableBase:
        emit = observer.on_next
        latest_left = cast(Left, _NOTHING)
        latest_right = cast(Right, _NOTHING)
        completed = 0

        def on_left(value: Left) -> None:
            nonlocal latest_left
            latest_left = value
            if latest_right is not _NOTHING:
                emit((value, latest_right))

        def on_right(value: Right) -> None:
            nonlocal latest_right
            latest_right = value
            if latest_left is not _NOTHING:
                emit((latest_left, value))

        # The same with a tape. Spelled out: a call of the above would cost as much as the writing.
        if left_tape is not None:
            write_left, left_buffer = left_tape.write, left_tape.buffer

            def on_left(value: Left) -> None:
                nonlocal latest_left
                write_left(value, left_buffer, -1)
                latest_left = value
                if latest_right is not _NOTHING:
                    emit((value, latest_right))

        if right_tape is not None:
            write_right, right_buffer = right_tape.write, right_tape.buffer

            def on_right(value: Right) -> None:
                nonlocal latest_right
                write_right(value, right_buffer, -1)
                latest_right = value
                if latest_left is not _NOTHING:
                    emit((latest_left, value))

        def on_completed() -> None:
            nonlocal completed
            completed += 1
            if completed == 2:
                observer.on_completed()

        return CompositeDisposable(
            link(left, on_left, observer.on_error, on_completed, scheduler),
            link(right, on_right, observer.on_error, on_completed, scheduler),
        )

    return Link(subscribe)
