"""Age: a value is too old when its feed has said nothing for too long, quiet or dead."""

from typing import Any, TypeVar

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable

from operators.guards.schedule import NEVER_NS, Schedule
from operators.operator import Link, Operator, clock_of, link
from streams.events import Feed, Refusal, Status

__all__ = ["DEAD", "LIVE", "QUIET", "age", "age_limit_ns", "life"]

Value = TypeVar("Value")

LIVE = 0
QUIET = 1
DEAD = 2

_REASONS = {QUIET: "quiet", DEAD: "dead"}


def life(age_ns: int, limit_ns: int, quiet_limit_ns: int, silence_ns: int, dead_ns: int) -> int:
    """Judge a feed by the age of its last quote and by how long it gave no sign at all; a step.

    A feed that still gives signs (heartbeats, sibling streams) within ``dead_ns`` is quiet, and
    may be as old as ``quiet_limit_ns``; without them it is dead.
    """
    if age_ns < limit_ns:
        return LIVE
    if silence_ns < dead_ns:
        return LIVE if age_ns < quiet_limit_ns else QUIET
    return DEAD


def age_limit_ns(in_session: bool, limit_ns: int, outside_limit_ns: int) -> int:
    """How old a quote may be; outside the session feeds are slower; a step."""
    return limit_ns if in_session else outside_limit_ns


def age(
    feed: Feed,
    *,
    limit_ns: int,
    quiet_limit_ns: int | None = None,
    dead_ns: int | None = None,
    schedule: Schedule | None = None,
    outside_limit_ns: int | None = None,
    status: Observable[Status] | None = None,
    signs: Observable[Any] | None = None,
) -> Operator[Value | Refusal, Value | Refusal]:
    """Pass values, and refuse when the latest reaches ``limit_ns`` without a newer one.

    Timers run on the graph's clock, so it refuses also when nothing arrives at all. What keeps a
    feed from being dead: its ``heartbeat`` and ``sibling`` statuses, and anything in ``signs``.
    A ``disconnect`` refuses at once, until the next value. When a feed goes from quiet to dead, or
    back, that is a refusal of its own. With a ``schedule``, ``outside_limit_ns`` holds outside.

    ``quiet_limit_ns`` and ``dead_ns`` are ``limit_ns`` when not given.
    Units: ns; ``value`` and ``limit`` of the refusal in seconds.
    Shape: one out per input, synchronous, and one at each change by a timer or a status.
    Errors: RuntimeError on subscription without the graph's clock.
    """
    dead_after = limit_ns if dead_ns is None else dead_ns
    outside = limit_ns if outside_limit_ns is None else outside_limit_ns

    def operator(source: Observable[Value | Refusal]) -> Observable[Value | Refusal]:
        def subscribe(
            observer: abc.ObserverBase[Value | Refusal],
            scheduler: abc.SchedulerBase | None = None,
        ) -> abc.DisposableBase:
            clock = clock_of(scheduler, "age")
            emit = observer.on_next
            latest: Any = None
            since = heard = 0
            refused = ""
            waiting = False
            timer = SerialDisposable()

            def refuse(reason: str, limit: int) -> None:
                nonlocal refused
                refused = reason
                now = clock.now_ns
                emit(
                    Refusal(
                        latest.seq, now, feed, reason,
                        value=(now - since) / 1e9, limit=limit / 1e9,
                    )
                )  # fmt: skip

            def judge() -> None:
                """Say what has changed, and come back when the next change is due."""
                nonlocal refused, waiting
                now, ts = clock.now_ns, since
                limit, edge = limit_ns, NEVER_NS
                if schedule is not None:
                    limit = age_limit_ns(schedule.is_open(now), limit_ns, outside)
                    edge = schedule.next_edge(now)
                quiet = limit if quiet_limit_ns is None else max(quiet_limit_ns, limit)
                last_sign = max(heard, ts)
                verdict = life(now - ts, limit, quiet, now - last_sign, dead_after)
                if verdict == LIVE:
                    if refused:
                        refused = ""
                        emit(latest)
                    due = (
                        ts + limit if now < ts + limit else min(ts + quiet, last_sign + dead_after)
                    )
                else:
                    reason = _REASONS[verdict]
                    if reason != refused:
                        refuse(reason, quiet if verdict == QUIET else limit)
                    due = last_sign + dead_after if verdict == QUIET else edge
                due = min(due, edge)
                waiting = due < NEVER_NS
                if waiting:
                    timer.disposable = clock.schedule_ns(due, look)

            def look(_: abc.SchedulerBase, __: object = None) -> None:
                judge()

            def on_next(value: Any) -> None:
                nonlocal latest, since, refused
                latest = value
                # A guard may repeat the refusal of a quote from before: the feed spoke just now.
                since = clock.now_ns if type(value) is Refusal else value.ts
                if refused or not waiting:
                    # Judged afresh: it may be old already, and the timer of a refusal is far off.
                    refused = "not judged yet"
                    judge()
                else:
                    # One timer is out at a time; it moves on by itself when it finds a newer value.
                    emit(value)

            def on_sign(_: Any) -> None:
                nonlocal heard
                heard = clock.now_ns
                if refused in (_REASONS[DEAD], _REASONS[QUIET]):
                    judge()

            def on_status(event: Status) -> None:
                nonlocal waiting
                if event.source != feed:
                    return
                if event.kind == "disconnect":
                    if latest is not None and refused != "disconnected":
                        timer.disposable, waiting = None, False
                        refuse("disconnected", limit_ns)
                elif event.kind in ("heartbeat", "sibling") and refused != "disconnected":
                    on_sign(event)

            subscriptions = CompositeDisposable(timer)
            if status is not None:
                subscriptions.add(
                    status.subscribe(on_status, observer.on_error, scheduler=scheduler)
                )
            if signs is not None:
                subscriptions.add(signs.subscribe(on_sign, observer.on_error, scheduler=scheduler))
            subscriptions.add(
                link(source, on_next, observer.on_error, observer.on_completed, scheduler)
            )
            return subscriptions

        return Link(subscribe)

    return operator
