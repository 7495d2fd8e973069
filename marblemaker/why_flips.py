"""Flips: the nearest change of each input at which something else would have come out.

Everything before the moment is as it was, and only this one value is other. The search is exact:
``Outcome.gates`` and ``ticks`` tell where every condition and every rounded price stands, each of
which goes one way only as a value moves away. Between two values with the same gates nothing can
happen, however far apart they are; so the search goes from one to the next, by doubling and
halving, and asks at each what comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from marblemaker.why_situation import Change, Evaluator, FeedPast, Outcome
from streams.instrument import Instrument, format_units

__all__ = ["Flip", "flips", "inputs_of"]

FARTHEST: Final = 2**60
"""No price or size goes further, 1e-9."""
PATIENCE: Final = 4_000
"""Evaluations for one flip; beyond, it is said how far was looked."""

Key = Callable[[Outcome], tuple[Any, ...]]


class Flip(Struct, frozen=True):
    """The nearest change of one input, one way, at which another outcome comes."""

    input: str
    """``signal bid``, ``signal both``, ``target ask``, ``position`` …"""
    way: int
    """1 up, -1 down."""
    kind: bool
    """Whether another kind of decision was looked for; else any other price or set of levels."""
    steps: int | None
    """Ticks of the instrument, or lots; ``None`` when no change of it alone flips anything."""
    change: int | None
    """The same in 1e-9, signed."""
    becomes: str = ""
    """What would have come out."""
    bid_px: int | None = None
    """Its prices, 1e-9."""
    ask_px: int | None = None
    note: str = ""
    """Why it cannot be told, or how far was looked."""


class _TooFar(Exception):
    """The search took too long."""

    def __init__(self, looked: int) -> None:
        self.looked = looked


def inputs_of(
    evaluator: Evaluator, signals: list[Instrument], target: Instrument
) -> list[tuple[str, int, Callable[[int], Change], str]]:
    """Each input: its name, its step in 1e-9, what a number of steps changes, why not if not."""
    found: list[tuple[str, int, Callable[[int], Change], str]] = []
    s = evaluator.s
    for past, instrument in [*zip(s.signals, signals, strict=True), (s.target, target)]:
        for which in ("bid", "ask", "both"):
            tick = instrument.tick_size
            found.append(
                (
                    f"{past.name} {which}",
                    tick,
                    _quote_change(past.name, which, tick),
                    _untold(past, which),
                )
            )
    lot = target.lot_size
    found.append(("position", lot, lambda k: Change(position=k * lot), ""))
    return found


def _quote_change(feed: str, which: str, tick: int) -> Callable[[int], Change]:
    bid, ask = which in ("bid", "both"), which in ("ask", "both")
    return lambda k: Change(feed=feed, bid=k * tick if bid else 0, ask=k * tick if ask else 0)


def _untold(past: FeedPast, which: str) -> str:
    quote = past.quote
    if quote is None:
        return "it has not spoken"
    if not past.known:
        return "cannot be told: what its guards remembered is not in the run"
    for side, px in (("bid", quote.bid_px), ("ask", quote.ask_px)):
        if px is None and which in (side, "both"):
            return f"it has no {side}"
    return ""


def flips(evaluator: Evaluator, signals: list[Instrument], target: Instrument) -> list[Flip]:
    """The nearest flips of every input, both ways, of the price and of the kind."""
    found: list[Flip] = []
    base = evaluator.evaluate()
    for name, step, change, untold in inputs_of(evaluator, signals, target):
        for way in (1, -1):
            if untold:
                found += [Flip(name, way, kind, None, None, note=untold) for kind in (False, True)]
                continue
            search = _Search(evaluator, base, name, step, change, way)
            found += [search.find(kind=False), search.find(kind=True)]
    return found


class _Search:
    """One input, one way."""

    def __init__(
        self, evaluator: Evaluator, base: Outcome, name: str, step: int,
        change: Callable[[int], Change], way: int,
    ) -> None:  # fmt: skip
        self._evaluator, self._base, self._change = evaluator, base, change
        self._name, self._step, self._way = name, step, way
        self._most = self._farthest()
        self._seen: dict[int, Outcome] = {}
        # There the anchor moves by whole ticks under a shift that moves by less.
        p = evaluator.p
        self._saw = p.preset == "fair_value" and "signal" in name and p.signal_skew_factor != 0.0

    def _farthest(self) -> int:
        """How far a price can go down, or anything up."""
        most = FARTHEST // self._step
        if self._way < 0 and self._name != "position":
            s = self._evaluator.s
            name = self._name.rpartition(" ")[0]
            past = next(one for one in (*s.signals, s.target) if one.name == name)
            assert past.quote is not None
            # Below nothing there is no price; nothing itself is one, and is refused.
            sides = {"bid": [past.quote.bid_px], "ask": [past.quote.ask_px]}
            which = self._name.rpartition(" ")[2]
            prices = sides.get(which, [past.quote.bid_px, past.quote.ask_px])
            most = min(most, *(px // self._step for px in prices if px is not None))
        return most

    def at(self, k: int) -> Outcome:
        """What comes out ``k`` steps away."""
        if k == 0:
            return self._base
        found = self._seen.get(k)
        if found is None:
            found = self._seen[k] = self._evaluator.evaluate(self._change(self._way * k))
        return found

    def find(self, *, kind: bool) -> Flip:
        """Look for the nearest change that flips."""
        self._seen.clear()
        what: Key = (lambda o: (o.kind,)) if kind else (lambda o: o.levels)
        gates: Key = (lambda o: o.gates) if kind else (lambda o: o.gates + o.ticks)
        base = what(self._base)
        k, hint = 0, 1
        try:
            while True:
                following = self._next(k, hint, gates)
                if following is not None and kind and self._saw:
                    following = self._refined(k, following)
                if following is None:
                    return Flip(self._name, self._way, kind, None, None)
                if what(self.at(following)) != base:
                    return self._flip(following, kind)
                k, hint = following, max(following - k, 1)
        except _TooFar as error:
            looked = format_units(error.looked * self._step)
            return Flip(
                self._name, self._way, kind, None, None,
                note=f"none up to {looked}, further was not looked",
            )  # fmt: skip

    def _flip(self, k: int, kind: bool) -> Flip:
        outcome = self.at(k)
        row = next((r for r in outcome.rows if r.action in ("quote", "hold")), None)
        return Flip(
            self._name, self._way, kind, k, self._way * k * self._step, outcome.kind,
            None if row is None else row.bid_px, None if row is None else row.ask_px,
        )  # fmt: skip

    def _next(self, k: int, hint: int, gates: Key) -> int | None:
        """The first value beyond ``k`` with other gates; ``None`` if there is none."""
        if len(self._seen) > PATIENCE:
            raise _TooFar(k)
        here, most = gates(self.at(k)), self._most
        if k >= most:
            return None
        low, guess, width = k, min(k + hint, most), 1
        # Breaks come at nearly even distances: look around the place where the next one should be.
        if gates(self.at(guess)) == here:
            low = guess
            while True:
                if low == most:
                    return None
                guess = min(low + width, most)
                if gates(self.at(guess)) != here:
                    break
                low, width = guess, width * 2
        else:
            while guess - width > low:
                if gates(self.at(guess - width)) == here:
                    low = guess - width
                    break
                guess, width = guess - width, width * 2
        while guess - low > 1:
            middle = (low + guess) // 2
            if gates(self.at(middle)) == here:
                low = middle
            else:
                guess = middle
        return guess

    def _refined(self, k: int, found: int) -> int:
        """Look again tick by tick of the anchor just before a break that a saw-tooth may hide."""
        tick = self._evaluator.p.instrument.tick_size
        start = max(k, found - 4 * tick // self._step - 2)
        here = self.at(k).gates
        while self.at(start).gates != here:
            start = max(k, start - 4 * tick // self._step - 2)
        while start < found:
            following = self._next(start, max(tick // self._step, 1), lambda o: o.gates + o.ticks)
            if following is None or following >= found:
                return found
            if self.at(following).gates != here:
                return following
            start = following
        return found
