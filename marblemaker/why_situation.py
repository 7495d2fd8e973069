"""A situation: all that one evaluation of the graph depended on, and what it leads to.

``evaluate`` runs the graph's own operators and steps over it, with one value changed or none. The
stateless operators are those of the graph, subscribed once; of those with a memory the steps are
called with what they remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from operators.anchor import anchor
from operators.fair_value import fair_value
from operators.guards.basis import basis
from operators.guards.collar import believed, jump_bps
from operators.guards.event_time import event_time
from operators.guards.frozen import is_frozen
from operators.guards.risk import breach
from operators.guards.session import session
from operators.guards.split import SPLITS, TOLERANCE, split_of
from operators.mid import mid
from operators.operator import Operator
from operators.quoting import Parameters, price_of, retract_of
from operators.requote import moved, refused, same_target
from operators.residual import residual_of
from operators.state import State, refuse_state, seq_of
from operators.throttle import release_ns, same_levels
from operators.tick_ladder import levels_in_reach, levels_too_near
from operators.weighted import weighted
from streams.clock import Clock
from streams.events import (
    BUY,
    SELL,
    Anchor,
    Decision,
    Feed,
    Inventory,
    Mid,
    Quote,
    Refusal,
    Residual,
)
from streams.instrument import ceil_ticks, floor_ticks, round_ticks
from streams.pump import Hot

__all__ = ["NOTHING", "Change", "Evaluator", "FeedPast", "Outcome", "Situation"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")

NOTHING: Final = "nothing new"
_FEEDS: Final = ("signal", "target")
_AGES: Final = ("quiet", "dead", "disconnected")


class Change(Struct, frozen=True):
    """One value that is other than it was; prices and sizes in 1e-9."""

    feed: str | None = None
    """``signal``, ``signal_2`` …, ``target``; ``None`` for the position."""
    bid: int = 0
    ask: int = 0
    position: int = 0


class FeedPast(Struct):
    """What a feed's chain of operators remembered when its latest quote came."""

    name: str
    quote: Quote | None = None
    """The latest."""
    emitted: Mid | Residual | Anchor | Refusal | None = None
    """What the chain had put out last; by a timer it may be a refusal of its age."""
    book_before: tuple[int | None, ...] | None = None
    """Prices and sizes of the quote before, and since when the book has been that."""
    book_since: int = 0
    accepted: float = 0.0
    candidate: float = 0.0
    since: int = 0
    before: float = 0.0
    judge_from: int = 0
    previous: tuple[int, float, float] | None = None
    """The one believed before: ts, mid and baseline."""
    measure: Callable[[int, float], float] | None = None
    """The baseline as it stood: may be asked again and again only where it does not depend on the
    mid that it is asked with."""
    known: bool = True
    """False when the past could not be found: then no change of it is judged."""


class Situation(Struct):
    """All that one evaluation depended on."""

    now: int
    signals: list[FeedPast]
    target: FeedPast
    trigger: str | None
    inventory: Inventory
    rejects: int = 0
    tripped: tuple[str, float, float] | None = None
    """The risk limit that was tripped before."""
    mark: int | None = None
    """The target's mid that the risk guard last saw, 1e-9; ``None`` before the first."""
    pnl_at_open: int = 0
    killed: str | None = None
    quoted: bool = False
    """Whether the last quote still stands as what a move is measured against."""
    last_anchor: float = 0.0
    last_residual: float = 0.0
    last_widening: float = 1.0
    last_target: Decision | None = None
    last_refusal: tuple[str, str, int] | None = None
    threshold_bps: float | None = None
    """The one in force, with a budget."""
    last_ns: int | None = None
    """When the throttle last let a target through."""
    sent: Decision | None = None
    held: Decision | None = None
    budget_due: int | None = None
    """When the budget pays for a target, where that is known; ``None`` without a budget."""
    released_ns: int | None = None
    """When the throttle let go what this evaluation had it hold."""


class Outcome(Struct):
    """What an evaluation led to."""

    kind: str
    """In words, without prices: ``quote both sides``, ``withdraw: signal locked`` …"""
    rows: tuple[Decision, ...]
    """The decisions that came out."""
    wanted: Decision | None
    """What requote let through, before the throttle."""
    state: State
    """What reached requote."""
    gates: tuple[Any, ...]
    """Where every condition stood: between two values of a change that have the same gates (and
    ``ticks``) nothing happens."""
    ticks: tuple[Any, ...]

    @property
    def levels(self) -> tuple[Any, ...]:
        """What people would see differ: actions and prices."""
        return self.kind, *(
            (r.action, r.bid_px, r.ask_px, r.bid_levels, r.ask_levels) for r in self.rows
        )


class _Probe(Generic[_In, _Out]):
    """An operator without a memory, to be asked for one value at a time."""

    def __init__(self, operator: Operator[Any, Any], clock: Clock) -> None:
        self._in: Hot[Any] = Hot()
        self._out: list[Any] = []
        operator(self._in).subscribe(self._out.append, self._fail, scheduler=clock)

    @staticmethod
    def _fail(error: Exception) -> None:
        raise error

    def __call__(self, value: _In) -> _Out:
        self._out.clear()
        self._in.push(value)
        found: _Out = self._out[-1]
        return found


class Evaluator:
    """Evaluates one situation, as it was and with one value changed."""

    def __init__(self, p: Parameters, s: Situation) -> None:
        """Subscribe the graph's operators at the situation's instant."""
        self.p, self.s = p, s
        g, clock = p.guards, Clock(s.now)
        scale, tutorial = p.instrument.price_scale, p.preset == "tutorial"
        self._tutorial, self._scale = tutorial, scale
        self._event_time: dict[str, _Probe[Quote, Quote | Refusal]] = {}
        feed: Feed
        for feed, behind in (
            ("signal", g.max_signal_behind_ns), ("target", g.max_target_behind_ns),
        ):  # fmt: skip
            if g.max_ahead_ns is not None or behind is not None:
                self._event_time[feed] = _Probe[Quote, Quote | Refusal](
                    event_time(feed, max_ahead_ns=g.max_ahead_ns, max_behind_ns=behind),
                    clock,
                )
        self._mid = {
            feed: _Probe[Quote, Mid | Refusal](mid(feed, tutorial=tutorial, locked=g.locked), clock)
            for feed in _FEEDS
        }
        self._anchor = _Probe[Mid, Anchor](anchor(scale, tutorial=tutorial), clock)
        self._signals: list[Hot[Any]] = [Hot() for _ in s.signals]
        self._residuals: list[Any] = []
        if len(s.signals) > 1:
            weighted(self._signals, p.weights).subscribe(self._residuals.append)
        self._together: list[_Probe[State, State]] = []
        if not tutorial:
            if g.schedule is not None:
                self._together.append(
                    _Probe(session(g.schedule, outside=g.outside, widening=g.widening), clock)
                )
            if g.max_basis_bps is not None:
                self._together.append(_Probe(basis(g.max_basis_bps), clock))
            if p.preset == "fair_value":
                self._together.append(_Probe(fair_value(scale), clock))
        self._ours: Hot[Inventory] = Hot()
        self._price = _Probe[Any, Decision](price_of(p, self._ours), clock)
        self._retract = retract_of(p)
        self.evaluations = 0

    # ------------------------------------------------------------ a feed's chain

    def chain(self, past: FeedPast, quote: Quote) -> tuple[Any, tuple[Any, ...]]:
        """What a feed's operators make of a quote, and where their conditions stood."""
        feed: Feed = "target" if past.name == "target" else "signal"
        g = self.p.guards
        gates: list[Any] = []
        probe = self._event_time.get(feed)
        if probe is not None:
            judged = probe(quote)
            if type(judged) is Refusal:
                return judged, ("event_time",)
        book = (quote.bid_px, quote.ask_px, quote.bid_sz, quote.ask_sz)
        if (
            g.frozen_ns is not None
            and past.book_before is not None
            and is_frozen(quote.ts - past.book_since, g.frozen_ns)
        ):
            gates += [_sign(a, b) for a, b in zip(book[:2], past.book_before[:2], strict=True)]
            if book == past.book_before:
                if book == _book(past.quote) and type(past.emitted) is Refusal:
                    return past.emitted, ("frozen", *gates)
                limit = g.frozen_ns / 1e9
                refusal = Refusal(
                    quote.seq, quote.ts, feed, "frozen", *book,
                    (quote.ts - past.book_since) / 1e9, limit,
                )  # fmt: skip
                return refusal, ("frozen", *gates)
        gates += [_sign(quote.bid_px, 0), _sign(quote.ask_px, 0), _sign(*book[:2])]
        middle = self._mid[feed](quote)
        if type(middle) is Refusal:
            return middle, (middle.reason, *gates)
        assert type(middle) is Mid
        value = middle.mid
        if g.collar_bps is not None and past.accepted:
            jump = jump_bps(value, past.accepted)
            gates.append(_beyond(jump, g.collar_bps))
            if past.candidate:
                gates.append(_beyond(jump_bps(value, past.candidate), g.collar_bps))
            sound, _, _ = believed(
                value, quote.ts, past.accepted, past.candidate, past.since,
                g.collar_bps, g.collar_confirm_ns,
            )  # fmt: skip
            if not sound:
                refusal = Refusal(
                    quote.seq, quote.ts, feed, "jump not confirmed", *book[:2], None, None,
                    jump, g.collar_bps,
                )  # fmt: skip
                return refusal, ("collar", *gates)
        if (
            feed == "signal"
            and g.split_break_ns is not None
            and past.before
            and quote.ts >= past.judge_from
        ):
            ratio = past.before / value
            for one in SPLITS:
                gates += [
                    _beyond(ratio / one - 1.0, TOLERANCE), _beyond(ratio * one - 1.0, TOLERANCE)
                ]  # fmt: skip
            found = split_of(past.before, value)
            if found:
                refusal = Refusal(
                    quote.seq, quote.ts, feed, "looks like a split", *book[:2], None, None,
                    ratio, found,
                )  # fmt: skip
                return refusal, ("split", *gates)
        if feed == "target":
            return self._anchor(middle), ("value", *gates)
        assert past.measure is not None
        level = past.measure(quote.ts, value)
        return (
            Residual(quote.seq, quote.ts, value, level, residual_of(value, level)),
            ("value", *gates),
        )

    def emission(self, past: FeedPast, change: Change | None) -> tuple[Any, tuple[Any, ...]]:
        """What a feed's chain stands at, with its latest quote changed or not."""
        if past.quote is None or not past.known:
            return past.emitted, ()
        aged = type(past.emitted) is Refusal and past.emitted.reason in _AGES
        if aged or (change is None and past.name != self.s.trigger):
            return past.emitted, ()
        quote = past.quote
        if change is not None and change.feed == past.name:
            if (quote.bid_px is None and change.bid) or (quote.ask_px is None and change.ask):
                return past.emitted, ()
            quote = replace(
                quote,
                bid_px=None if quote.bid_px is None else quote.bid_px + change.bid,
                ask_px=None if quote.ask_px is None else quote.ask_px + change.ask,
            )
        elif past.name != self.s.trigger:
            return past.emitted, ()
        made, gates = self.chain(past, quote)
        if type(made) is Refusal and self._tutorial and past.name != self.s.trigger:
            return past.emitted, gates  # It would have been left out, and the one before stood.
        return made, gates

    # ------------------------------------------------------------ the whole

    def evaluate(self, change: Change | None = None) -> Outcome:
        """What comes out of the situation, with one value changed or none."""
        self.evaluations += 1
        s, p = self.s, self.p
        gates: list[Any] = []
        signals = []
        for past in s.signals:
            value, at = self.emission(past, change)
            signals.append(value)
            gates += at
        target, at = self.emission(s.target, change)
        gates += at
        inventory = s.inventory
        if change is not None and change.position:
            inventory = replace(inventory, position=inventory.position + change.position)
        if self._tutorial:
            for value, name in ((signals[0], "signal"), (target, "target")):
                if type(value) is Refusal and name == s.trigger:
                    made = refused(value, value.seq, value.ts, action="refuse")
                    return Outcome(
                        f"refuse: {made.reason}", (made,), None, (value, value), tuple(gates), ()
                    )  # fmt: skip
            if s.trigger not in (None, "target"):
                nothing: Any = signals[0]
                return Outcome(
                    f"{NOTHING}: a signal does not trigger", (), None, (nothing, target),
                    tuple(gates), (),
                )  # fmt: skip
        state = self._state(signals, target)
        for probe in self._together:
            state = probe(state)
            by = state[1]
            if type(by) is Refusal and by.by == "basis":
                gates.append(_sign(by.value, 0.0))
                break
        if p.guards.risk is not None:
            mark = s.mark
            if type(state[1]) is Anchor:
                mark = (state[1].bid_px + state[1].ask_px) // 2
            judged = inventory
            if change is not None and change.position:
                # Another position at the same profit: what is more of it was bought at the mark.
                judged = replace(inventory, cash=inventory.cash - change.position * (mark or 0))
            why = s.tripped or breach(p.guards.risk, judged, s.rejects, mark, s.pnl_at_open)
            if why is not None:
                gates += [why[0], inventory.position > 0]
                state = refuse_state(state, "risk", why[0], s.now, why[1], why[2])
        if s.killed is not None:
            state = refuse_state(state, "kill switch", s.killed, s.now, None, None)
        return self._decide(state, inventory, gates, change)

    def _state(self, signals: list[Any], target: Any) -> State:
        signal = signals[0]
        if len(signals) > 1:
            self._residuals.clear()
            for source, value in zip(self._signals, signals, strict=True):
                if value is not None:
                    source.push(value)
            signal = self._residuals[-1] if self._residuals else None
        if signal is None:
            signal = (
                Residual(0, 0, 0.0, 0.0, 0.0)
                if self._tutorial
                else Refusal(0, 0, "signal", "missing")
            )
        return signal, Refusal(0, 0, "target", "missing") if target is None else target

    def _decide(
        self, state: State, inventory: Inventory, gates: list[Any], change: Change | None
    ) -> Outcome:
        s, p = self.s, self.p
        signal, centre = state
        if type(signal) is not Residual or type(centre) is not Anchor:
            return self._withdraw(state, gates)
        threshold, factor = p.requote_threshold_bps / 10_000.0, p.signal_skew_factor
        standing = s.quoted and inventory.working and centre.widening == s.last_widening
        if standing:
            args = s.last_anchor, signal.residual, s.last_residual
            widest = (s.threshold_bps or p.requote_threshold_bps) / 10_000.0
            worth = True
            for limit in sorted({threshold, widest}):
                by_anchor = moved(centre.price, s.last_anchor, 0.0, 0.0, 0.0, limit)
                by_signal = moved(centre.price, centre.price, *args[1:], factor, limit)
                gates += [
                    by_anchor and _sign(centre.price, s.last_anchor),
                    by_signal and _sign(signal.residual, s.last_residual),
                ]
                worth = worth and moved(centre.price, *args, factor, limit)
            if not worth:
                return Outcome(
                    f"{NOTHING}: below the threshold", (), None, state, ("below", *gates), ()
                )  # fmt: skip
        self._ours.push(inventory)
        decision = self._price((signal, centre))
        ticks = self._ticks(centre, decision)
        gates += [
            decision.action, decision.reason, decision.bid_px is None, decision.ask_px is None,
            decision.bid_note, decision.ask_note,
        ]  # fmt: skip
        if p.ladder is not None:
            gates += self._levels(centre, decision)
        of_target = change is not None and change.feed == "target"
        if self._tight(decision, of_target=of_target):
            gates += self._unrounded(centre, decision)
        if (
            p.ladder is not None
            and s.last_target is not None
            and (inventory.working or decision.action != "quote")
            and same_target(decision, s.last_target)
        ):
            return Outcome(
                f"{NOTHING}: the same target as before", (), None, state, tuple(gates), ticks
            )
        decision = replace(
            decision, ts=max(decision.ts, s.now), threshold_bps=s.threshold_bps, unmoved=0
        )
        return self._throttled(decision, state, gates, ticks)

    def _withdraw(self, state: State, gates: list[Any]) -> Outcome:
        signal, centre = state
        refusal = centre if type(centre) is Refusal else signal
        assert type(refusal) is Refusal
        seq, s = seq_of(state), self.s
        gates = [refusal.by, refusal.reason, *gates]
        if not seq:
            return Outcome(f"{NOTHING}: nothing was heard", (), None, state, tuple(gates), ())
        this = refusal.by, refusal.reason, refusal.seq if refusal.by in _FEEDS else 0
        if this == s.last_refusal:
            return Outcome(
                f"{NOTHING}: refused as before: {refusal.by} {refusal.reason}", (), None, state,
                tuple(gates), (),
            )  # fmt: skip
        made = refused(refusal, seq, max(signal.ts, centre.ts, s.now))
        return Outcome(f"withdraw: {made.reason}", (made,), made, state, tuple(gates), ())

    def _ticks(self, centre: Anchor, decision: Decision) -> tuple[Any, ...]:
        """The prices that come out, and what they go one way with."""
        if decision.bid_px is None and decision.ask_px is None:
            return ()
        found = decision.bid_px, decision.ask_px, decision.bid_levels, decision.ask_levels
        if self.p.preset == "fair_value":
            # The shift may go down where the anchor goes up: one tick of it at a time.
            return *found, round_ticks(centre.price, self._scale)
        return found

    def _unrounded(self, centre: Anchor, decision: Decision) -> tuple[Any, ...]:
        """Every tick that the two sides, or the anchor, move by."""
        assert decision.bid is not None
        assert decision.ask is not None
        return (
            floor_ticks(decision.bid, self._scale), ceil_ticks(decision.ask, self._scale),
            round_ticks(centre.price, self._scale),
        )  # fmt: skip

    def _levels(self, centre: Anchor, decision: Decision) -> list[Any]:
        """Where the ladder's levels are cut, and where they stand to the last target's."""
        ladder, last = self.p.ladder, self.s.last_target
        assert ladder is not None
        assert decision.bid is not None
        assert decision.ask is not None
        fair = round_ticks(centre.price, self._scale) * self.p.instrument.tick_size
        found: list[Any] = []
        for side, first, best, opposite in (
            (BUY, round(decision.bid * 1e9), centre.bid_px, centre.ask_px),
            (SELL, round(decision.ask * 1e9), centre.ask_px, centre.bid_px),
        ):
            levels = side, first, ladder.tick, ladder.num_levels
            found += [
                levels_too_near(
                    *levels, fair, opposite, ladder.min_edge_ticks * ladder.tick,
                    ladder.maker_fee_ppm,
                ),
                levels_in_reach(*levels, best, ladder.cancel_distance_ticks * ladder.tick),
            ]  # fmt: skip
        if last is not None:
            found += [
                _sign(decision.bid_px, last.bid_px), _sign(decision.ask_px, last.ask_px),
                decision.bid_levels == last.bid_levels, decision.ask_levels == last.ask_levels,
                _sign(decision.position, last.position),
            ]  # fmt: skip
        return found

    def _tight(self, decision: Decision, *, of_target: bool) -> bool:
        """Whether which sides are quoted may hang on single ticks."""
        assert decision.half_spread is not None
        if self.p.ladder is not None:
            # There the shifted centre is rounded anew at each tick of the target: always to the
            # same side, unless the shift is so near to whole ticks that doubles may waver.
            assert decision.signal_shift is not None
            ticks = decision.signal_shift * self._scale
            return of_target and ticks != 0.0 and abs(ticks - round(ticks)) < 1e-6
        return decision.half_spread * self._scale < 2.0

    # ------------------------------------------------------------ the throttle

    def _throttled(
        self, decision: Decision, state: State, gates: list[Any], ticks: tuple[Any, ...]
    ) -> Outcome:
        s = self.s
        kind = _kind(decision)
        if decision.action != "quote":
            return Outcome(kind, (decision,), decision, state, tuple(gates), ticks)
        due = self.due_ns
        if due <= s.now:
            return Outcome(kind, (decision,), decision, state, tuple(gates), ticks)
        if s.released_ns is not None:
            out = replace(decision, ts=s.released_ns, reason="throttle released", unmoved=0)
            return Outcome(kind, (out,), decision, state, tuple(gates), ticks)
        waits = s.last_ns is None or s.now >= release_ns(s.last_ns, self.p.min_interval_ns)
        reason = "budget" if waits else "throttle"
        rows = [replace(decision, action="hold", reason=reason)]
        if s.held is not None and same_levels(s.held, decision):
            rows.clear()  # It is held already; that it was wanted again is only counted.
        if s.sent is not None:
            retracted = self._retract(s.sent, decision)
            if retracted is not None:
                rows.append(retracted)
        return Outcome(
            "held back by the throttle" if reason == "throttle" else "held back by the budget",
            tuple(rows), decision, state, tuple(gates), ticks,
        )  # fmt: skip

    @property
    def due_ns(self) -> int:
        """When the throttle lets a target through."""
        s, p = self.s, self.p
        due = s.now
        if s.last_ns is not None:
            due = max(due, release_ns(s.last_ns, p.min_interval_ns))
        return due if s.budget_due is None else max(due, s.budget_due)


def _kind(decision: Decision) -> str:
    if decision.action != "quote":
        return f"{decision.action}: {decision.reason}"
    if decision.bid_px is not None and decision.ask_px is not None:
        return "quote both sides"
    return f"quote the {'ask' if decision.bid_px is None else 'bid'} alone"


def _sign(a: float | None, b: float | None) -> int:
    if a is None or b is None:
        return 0
    return (a > b) - (a < b)


def _beyond(value: float, limit: float) -> int:
    return (value > limit) - (value < -limit)


def _book(quote: Quote | None) -> tuple[int | None, ...] | None:
    return None if quote is None else (quote.bid_px, quote.ask_px, quote.bid_sz, quote.ask_sz)
