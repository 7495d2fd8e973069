"""Collar: a price that jumps must stand for a while before it is believed."""

from reactivex import Observable, abc

from operators.operator import Link, Operator, link
from streams.events import Feed, Mid, Refusal

__all__ = ["believed", "collar", "jump_bps"]


def jump_bps(mid: float, accepted: float) -> float:
    """Distance of a mid from the one last believed, in bps, signed; a step."""
    return (mid / accepted - 1.0) * 10_000.0


def believed(
    mid: float,
    ts: int,
    accepted: float,
    candidate: float,
    since: int,
    collar_bps: float,
    confirm_ns: int,
) -> tuple[bool, float, int]:
    """Tell whether a mid is believed, and which new level waits for it since when; a step.

    ``accepted`` is the mid last believed; ``candidate`` the level that waits, 0 for none.
    """
    jump = jump_bps(mid, accepted)
    if abs(jump) > collar_bps:
        if not candidate or abs(jump_bps(mid, candidate)) > collar_bps:
            candidate, since = mid, ts
        if ts - since < confirm_ns:
            return False, candidate, since
    return True, candidate, since


def collar(
    feed: Feed, *, collar_bps: float, confirm_ns: int
) -> Operator[Mid | Refusal, Mid | Refusal]:
    """Refuse a mid further than ``collar_bps`` from the last one believed, until it is confirmed.

    A new level is confirmed by a quote that comes ``confirm_ns`` after its first one or later, if
    every mid between was within the collar of that first one: silence confirms nothing. A mid back
    inside the collar of the level believed before is believed at once. Refusals pass.

    Units: bps, ns; ``value`` and ``limit`` of the refusal in bps.
    Shape: one out per input, synchronous.
    """

    def operator(source: Observable[Mid | Refusal]) -> Observable[Mid | Refusal]:
        def subscribe(
            observer: abc.ObserverBase[Mid | Refusal], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next
            accepted = candidate = 0.0
            since = 0
            # Two products a quote instead of a call; the exact judgement is beyond.
            share = collar_bps / 10_000.0 * 0.999 - 1e-12
            below, above = 1.0 - share, 1.0 + share

            def on_next(value: Mid | Refusal) -> None:
                nonlocal accepted, candidate, since
                if type(value) is not Mid:
                    emit(value)
                    return
                mid = value.mid
                if not accepted * below <= mid <= accepted * above and accepted:
                    sound, candidate, since = believed(
                        mid, value.ts, accepted, candidate, since, collar_bps, confirm_ns
                    )
                    if not sound:
                        emit(
                            Refusal(
                                value.seq, value.ts, feed, "jump not confirmed",
                                value.bid_px, value.ask_px, None, None,
                                jump_bps(mid, accepted), collar_bps,
                            )
                        )  # fmt: skip
                        return
                accepted, candidate = mid, 0.0
                emit(value)

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator
