"""The life of every order, against a model that folds what was sent and told from scratch."""

from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from typing import Final, Literal, TypeAlias

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import Struct
from msgspec.structs import replace

from sinks.order_sink import OrderSink, ReplacePolicy
from sinks.orders import Order, Orders
from sinks.venue import Cancel, Command, Create, Modify, Query
from streams.clock import Clock
from streams.events import BUY, SELL, AccountEvent, AccountKind, Decision, OrderUpdate

PX = 1_000
TICK = 1
LIMIT = 12
PATIENCE_NS = 1_000
FOREVER_NS = 10**15
BATCH = 4
ENDS: Final = {"cancel": "cancelled", "expire": "expired", "reject": "rejected"}
Level: TypeAlias = tuple[int, int, int]
Entry: TypeAlias = Create | Cancel | Modify | Query | AccountEvent | None
"""One line of an order's log: what was sent, what was told; None where the connection broke."""


# ---------------------------------------------------------------- the model


class Life(Struct):
    """What a log says about an order."""

    side: int
    state: str
    filled: int
    leaves: int
    px: int | None
    level: Level
    """Side, price and size that it stands for, or will once its modify is done."""
    unmovable: bool


def life(log: Sequence[Entry]) -> Life:
    """Fold the log of one order, from scratch."""
    made = log[0]
    assert isinstance(made, Create)
    end = next((i for i in range(1, len(log)) if _ends(log[: i + 1])), None)
    lived = log if end is None else log[: end + 1]
    (px, _), (goal, size, ceiling) = _stands(lived), _goal(lived)
    filled = _filled(log)
    if end is not None:
        last = log[end]
        assert isinstance(last, AccountEvent)
        state = ENDS.get(last.kind, "filled") if filled < ceiling else "filled"
    elif _on_its_way(lived, Cancel) is not None:
        state = "pending_cancel"
    elif _on_its_way(lived, Modify) is not None:
        state = "pending_modify"
    else:
        state = "open" if any(_is(e, "ack", "modify") for e in log) else "pending_new"
    return Life(
        side=made.side,
        state=state,
        filled=filled,
        leaves=0 if end is not None else ceiling - filled,
        px=px,
        level=(made.side, goal or 0, size),
        unmovable=any(
            isinstance(e, Modify) and _answer(log, i) is not None and not _took_effect(log, i)
            for i, e in enumerate(log)
        ),
    )


def _is(entry: Entry, *kinds: str) -> bool:
    return isinstance(entry, AccountEvent) and entry.kind in kinds


def _filled(log: Sequence[Entry]) -> int:
    fills = [e for e in log if isinstance(e, AccountEvent) and e.kind == "fill"]
    return sum({fill.venue_id: fill.qty or 0 for fill in fills}.values())


def _ends(log: Sequence[Entry]) -> bool:
    """Whether the last line ends an order that had not ended before."""
    last = log[-1]
    return isinstance(last, AccountEvent) and (last.kind in ENDS or _filled(log) >= _goal(log)[2])


def _stands(log: Sequence[Entry]) -> tuple[int | None, int]:
    """Price and total size by the latest line that tells them."""
    for i in reversed(range(1, len(log))):
        entry = log[i]
        if isinstance(entry, AccountEvent) and (entry.kind == "modify" or _is_fresh(log, i)):
            assert entry.qty is not None
            return entry.px, entry.qty
    made = log[0]
    assert isinstance(made, Create)
    return made.px, made.qty


def _goal(log: Sequence[Entry]) -> tuple[int | None, int, int]:
    """Price and size of its level, and the most that it can fill in all."""
    px, total = _stands(log)
    at = _on_its_way(log, Modify)
    if at is not None:
        asked = log[at]
        assert isinstance(asked, Modify)
        return asked.px, asked.qty - _filled(log[:at]), max(total, asked.qty)
    for i in reversed(range(1, len(log))):
        asked = log[i]
        if isinstance(asked, Modify) and _took_effect(log, i):
            return px, asked.qty - _filled(log[:i]), total
    made = log[0]
    assert isinstance(made, Create)
    return px, made.qty, total


def _on_its_way(log: Sequence[Entry], kind: type[Cancel | Modify]) -> int | None:
    """The line of the last command of a kind, while nobody has told what became of it."""
    at = max((i for i, entry in enumerate(log) if isinstance(entry, kind)), default=None)
    return None if at is None or _answer(log, at) is not None else at


def _answer(log: Sequence[Entry], at: int) -> int | None:
    """The line that first tells what became of the command in line ``at``."""
    asked = log[at]
    for i in range(at + 1, len(log)):
        entry = log[i]
        if _is_fresh(log, i):
            return i
        if isinstance(asked, Cancel) and _is(entry, "cancel_reject"):
            return i
        if isinstance(asked, Modify) and isinstance(entry, AccountEvent):
            if entry.kind == "modify_reject":
                return i
            if entry.kind == "modify" and (entry.px, entry.qty) == (asked.px, asked.qty):
                return i
    return None


def _took_effect(log: Sequence[Entry], at: int) -> bool:
    asked, told = log[at], _answer(log, at)
    entry = None if told is None else log[told]
    return (
        isinstance(asked, Modify)
        and isinstance(entry, AccountEvent)
        and (entry.px, entry.qty) == (asked.px, asked.qty)
    )


def _is_fresh(log: Sequence[Entry], at: int) -> bool:
    """Whether this answers a question that was asked after every command before it."""
    if not _is_rest(log[at]):
        return False
    gap = max((i for i in range(at) if log[i] is None), default=0)
    command = max(i for i in range(at) if isinstance(log[i], Create | Cancel | Modify))
    if gap > command:
        return True
    older = sum(isinstance(e, Query) for e in log[gap:command])
    older -= sum(_is_rest(e) for e in log[gap:command])
    return sum(_is_rest(e) for e in log[command : at + 1]) > older


def _is_rest(entry: Entry) -> bool:
    return isinstance(entry, AccountEvent) and entry.kind == "ack" and entry.reason == "queried"


SEEN: Counter[str] = Counter()
"""What happened in all sessions, to guard the guard."""
ENDED: Final = {"filled", "cancelled", "expired", "rejected"}


# ---------------------------------------------------------------- the venue


class Real(Struct):
    """An order as the venue has it; the sink sees only what it is told."""

    side: int
    px: int | None
    total: int
    fills: list[AccountEvent]
    end: AccountKind | None = None
    told_end: bool = False

    @property
    def filled(self) -> int:
        return sum(fill.qty or 0 for fill in self.fills)


class FakeVenue:
    """Obeys, refuses, loses and tells as it is bidden; keeps the truth, and the log of all.

    It keeps two promises: what happened to one order it tells in that order (fills, which come by
    another way, whenever it likes), and its answers to questions are true when they are given.
    """

    def __init__(self, clock: Clock, position: int) -> None:
        self.clock = clock
        self.position = position
        self.real: dict[int, Real] = {}
        self.coming: list[Command] = []
        """Commands that are on their way to the venue."""
        self.untold: list[AccountEvent] = []
        self.told: list[AccountEvent] = []
        self.logs: dict[int, list[Entry]] = {}
        self.batches: list[list[Command]] = []
        self.connected = True
        self.did: Counter[str] = Counter()
        self._trades = 0
        self._folded: dict[int, tuple[int, Life]] = {}

    def submit(self, ts: int, commands: Sequence[Command]) -> None:
        assert self.connected, "sent without a connection"
        assert ts == self.clock.now_ns
        self.batches.append(list(commands))
        for command in commands:
            self.did[type(command).__name__] += 1
            if isinstance(command, Create):
                assert command.n not in self.logs
                assert command.qty > 0
                self.logs[command.n] = []
            self.logs[command.n].append(command)
            self.coming.append(command)

    def lives(self) -> dict[int, Life]:
        """What the model makes of each log; a log that has not grown is not folded again."""
        for n, log in self.logs.items():
            if n not in self._folded or self._folded[n][0] != len(log):
                self._folded[n] = len(log), life(log)
        return {n: each for n, (_, each) in self._folded.items()}

    def left(self, side: int) -> int:
        """What may still fill on a side, with all that is on its way."""
        worst: dict[int, int] = {}
        for n, order in self.real.items():
            if order.side == side and order.end is None:
                worst[n] = order.total
        for command in self.coming:
            if isinstance(command, Create) and command.side == side:
                worst[command.n] = command.qty
            elif isinstance(command, Modify) and command.n in worst:
                worst[command.n] = max(worst[command.n], command.qty)
        return sum(max(0, q - self._filled(n)) for n, q in worst.items())

    def overtaken(self, side: int) -> int:
        """Fills that the sink cannot know of: the end of their order was told before them."""
        told = {id_ for log in self.logs.values() for id_ in _ids(log)}
        return sum(
            fill.qty or 0
            for order in self.real.values()
            if order.side == side and order.told_end
            for fill in order.fills
            if fill.venue_id not in told
        )

    def take(self, at: int, how: str) -> None:
        """Let a command arrive, or lose it."""
        firsts = {command.n: command for command in reversed(self.coming)}
        command = list(firsts.values())[at % len(firsts)]
        self.coming.remove(command)
        self.did[f"{how} {type(command).__name__}"] += 1
        if how == "lose":
            return
        if isinstance(command, Create):
            self.real[command.n] = Real(command.side, command.px, command.qty, [])
            if how == "refuse":
                self.end(command.n, "reject")
            else:
                self._note("ack", command.n)
                if command.px is None:
                    self.trade(command.n, command.qty if how == "do" else 1)
                    if self.real[command.n].end is None:
                        self.end(command.n, "cancel")
        elif isinstance(command, Query):
            self._tell_all_about(command.n)
        elif isinstance(command, Cancel):
            if how == "refuse" or not self.rests(command.n):
                self._note("cancel_reject", command.n, reason=how)
            else:
                self.end(command.n, "cancel")
        elif how == "refuse" or not self.rests(command.n):
            self._note("modify_reject", command.n)
        elif how == "cross":
            self.end(command.n, "cancel")
        else:
            order = self.real[command.n]
            order.px, order.total = command.px, command.qty
            self._note("modify", command.n, px=command.px, qty=command.qty)
            if order.filled >= order.total:
                order.end = "fill"

    def rests(self, n: int) -> bool:
        return n in self.real and self.real[n].end is None

    def resting(self) -> list[int]:
        return [n for n in self.real if self.rests(n)]

    def trade(self, n: int, qty: int) -> None:
        order = self.real[n]
        qty = min(qty, order.total - order.filled)
        self._trades += 1
        self.position += order.side * qty
        self._note("fill", n, px=order.px or PX, qty=qty, venue_id=f"trade-{self._trades}")
        order.fills.append(self.untold[-1])
        if order.filled >= order.total:
            order.end = "fill"

    def end(self, n: int, kind: AccountKind) -> None:
        self.real[n].end = kind
        self._note(kind, n)

    def next_to_tell(self, at: int) -> AccountEvent:
        """One of the events that may be told next."""
        ready, busy = [], set[int | None]()
        for event in self.untold:
            if event.kind == "fill" and event.reason is None:
                ready.append(event)
            elif event.n not in busy:
                busy.add(event.n)
                ready.append(event)
        return ready[at % len(ready)]

    def disconnect(self, arrives: bool) -> None:
        """Break the connection; what was on its way arrives or is lost, answers are lost."""
        while self.coming:
            self.take(0, "do" if arrives else "lose")
        self.untold = [e for e in self.untold if e.kind == "fill" and e.reason is None]
        self.connected = False

    def _filled(self, n: int) -> int:
        return self.real[n].filled if n in self.real else 0

    def _tell_all_about(self, n: int) -> None:
        if n not in self.real:
            self._note("reject", n, reason="queried")
            return
        order = self.real[n]
        for fill in order.fills:
            self.untold.append(replace(fill, reason="queried"))
        if order.end is None:
            self._note("ack", n, px=order.px, qty=order.total, reason="queried")
        else:
            kind: AccountKind = "cancel" if order.end == "fill" else order.end
            self._note(kind, n, reason="queried")

    def _note(
        self,
        kind: AccountKind,
        n: int,
        *,
        px: int | None = None,
        qty: int | None = None,
        venue_id: str | None = None,
        reason: str | None = None,
    ) -> None:
        self.untold.append(
            AccountEvent(
                seq=0, ts=0, kind=kind, n=n, px=px, qty=qty, fee=0, venue_id=venue_id,
                reason=reason,
            )
        )  # fmt: skip


def _ids(log: Sequence[Entry]) -> list[str | None]:
    return [e.venue_id for e in log if isinstance(e, AccountEvent) and e.kind == "fill"]


# ---------------------------------------------------------------- one order, every interleaving


def _event(kind: AccountKind, qty: int | None = None, venue_id: str | None = None) -> AccountEvent:
    return AccountEvent(
        seq=0, ts=9, kind=kind, n=1, px=PX if qty else None, qty=qty, venue_id=venue_id
    )


TOLD: Final = (
    _event("ack"),
    _event("fill", 40, "first"),
    _event("fill", 60, "second"),
    _event("fill", 40, "first"),
    _event("cancel"),
    _event("cancel_reject"),
    _event("expire"),
)


@pytest.mark.parametrize("length", range(1, 7))
def test_however_the_answers_interleave_an_order_being_cancelled_has_one_life(length: int) -> None:
    for story in permutations(TOLD, length):
        orders = Orders(position=7)
        order, _ = orders.create(1, SELL, PX, 100)
        orders.ask_cancel(2, order)
        log: list[Entry] = [Create(1, SELL, PX, 100, None), Cancel(1)]
        for event in story:
            orders.apply(event)
            log.append(event)
            model = life(log)
            assert (order.state, order.filled, order.leaves) == (
                model.state, model.filled, model.leaves,
            ), story  # fmt: skip
            assert orders.position == 7 - model.filled
            assert orders.worst_case(SELL) == orders.position - model.leaves
            assert (1 in orders.working) == (model.state not in ENDED)
        assert order.filled == 40 * (TOLD[1] in story) + 60 * (TOLD[2] in story)


# ---------------------------------------------------------------- the sink against both


PICK = st.integers(0, 50)
LEVELS = st.tuples(st.integers(0, 3), st.integers(4, 6))
"""How many levels, and how many ticks from the middle they begin."""


class SinkAndVenue(RuleBasedStateMachine):
    """Decisions, time and a venue of every mood, in any order."""

    policy: ReplacePolicy

    @initialize(
        position=st.sampled_from([0, 0, 3, -7]),
        flatten=st.booleans(),
        stop_ns=st.sampled_from([3 * PATIENCE_NS, FOREVER_NS]),
    )
    def start(self, position: int, flatten: bool, stop_ns: int) -> None:
        self.clock = Clock(now_ns=10)
        self.venue = FakeVenue(self.clock, position)
        self.first = position
        self.flatten, self.stop_ns = flatten, stop_ns
        self.updates: list[OrderUpdate] = []
        self.made: list[Order] = []
        self.fills: list[AccountEvent] = []
        self.quoted: tuple[tuple[int, int], tuple[int, int], int] | None = None
        self.wanted: list[Level] = []
        self.allowed_to_touch: Counter[Level] | None = None
        self.judged = self.seen = 0
        self.sink = OrderSink(
            self,
            max_position=LIMIT,
            replace=self.policy,
            flatten=flatten,
            position=position,
            clock=self.clock,
            in_flight_ns=PATIENCE_NS,
            stop_ns=stop_ns,
            max_batch=BATCH,
            notify=self.updates.append,
            on_order=self.made.append,
            on_fill=lambda order, event: self.fills.append(event),
            on_decision=lambda decision: None,
        )

    # ------------------------------------------------ what happens

    @rule(bids=LEVELS, asks=LEVELS, qty=st.sampled_from([2, 2, 2, 3]))
    def decide(self, bids: tuple[int, int], asks: tuple[int, int], qty: int) -> None:
        self.quoted = bids, asks, qty
        self._quote()

    @rule(up=st.sampled_from([-1, 0, 1]))
    @precondition(lambda self: self.quoted)
    def move(self, up: int) -> None:
        """Want the same levels a tick higher or lower, or the same again."""
        assert self.quoted is not None
        (bids, bid_px), (asks, ask_px), qty = self.quoted
        self.quoted = (bids, bid_px - up), (asks, ask_px + up), qty
        self._quote()

    @rule(action=st.sampled_from(["withdraw", "hold", "refuse"]))
    def quote_nothing(self, action: Literal["withdraw", "hold", "refuse"]) -> None:
        decision = Decision(seq=1, ts=self.clock.now_ns, action=action, bid_px=PX, qty=2)
        if action == "withdraw":
            self._want(decision, [])
            return
        sent = len(self.venue.batches)
        self.sink.on_next(decision)
        assert len(self.venue.batches) == sent

    @rule(at=PICK, how=st.sampled_from(["do", "do", "do", "refuse", "23000", "lose", "cross"]))
    @precondition(lambda self: self.venue.coming)
    def arrive(self, at: int, how: str) -> None:
        self.venue.take(at, "refuse" if how == "23000" else how)
        last = self.venue.untold[-1] if self.venue.untold else None
        if how == "23000" and last is not None and last.kind == "cancel_reject":
            self.venue.untold[-1] = replace(last, reason="23000 too many requests")

    @rule(at=PICK, qty=st.integers(1, 3))
    @precondition(lambda self: self.venue.resting())
    def trade(self, at: int, qty: int) -> None:
        resting = self.venue.resting()
        self.venue.trade(resting[at % len(resting)], qty)

    @rule(at=PICK, kind=st.sampled_from(["cancel", "expire"]))
    @precondition(lambda self: self.venue.resting())
    def end(self, at: int, kind: AccountKind) -> None:
        resting = self.venue.resting()
        self.venue.end(resting[at % len(resting)], kind)

    @rule(at=PICK)
    @precondition(lambda self: self.venue.untold)
    def tell(self, at: int) -> None:
        event = self.venue.next_to_tell(at)
        self.venue.untold.remove(event)
        self._tell(event)

    @rule(at=PICK, qty=st.integers(1, 3))
    @precondition(lambda self: self.venue.resting())
    def tell_the_end_before_a_fill(self, at: int, qty: int) -> None:
        n = self.venue.resting()[at % len(self.venue.resting())]
        self.venue.trade(n, qty)
        if self.venue.rests(n):
            self.venue.end(n, "cancel")
        for event in [e for e in self.venue.untold if e.n == n]:
            if event.kind != "fill" or event.reason:
                self.venue.untold.remove(event)
                self._tell(event)

    @rule(at=PICK)
    @precondition(lambda self: self.venue.untold)
    def lose(self, at: int) -> None:
        event = self.venue.next_to_tell(at)
        # Nobody would ask about an order that rests; one in flight is asked for.
        assert event.n is not None
        in_flight = life(self.venue.logs[event.n]).state.startswith("pending")
        if event.kind != "fill" and (in_flight or event.kind not in ENDS):
            self.venue.did["lost answer"] += 1
            self.venue.untold.remove(event)

    @rule(at=PICK)
    @precondition(lambda self: self.venue.told)
    def repeat(self, at: int) -> None:
        event = self.venue.told[-1 - at % len(self.venue.told)]
        self.sink.on_account(replace(event, ts=self.clock.now_ns, n=999))
        assert event.n is not None
        over = self.venue.lives()[event.n].state in ENDED
        if event.kind == "fill" or over:
            self.venue.did["told again"] += 1
            self._tell(event)

    @rule(ns=st.sampled_from([1, PATIENCE_NS // 2, PATIENCE_NS, 5 * PATIENCE_NS]))
    def wait(self, ns: int) -> None:
        self.clock.advance(self.clock.now_ns + ns)

    @rule(at=PICK, how=st.sampled_from(["do", "do", "refuse", "cross"]))
    def settle(self, at: int, how: str) -> None:
        """The venue is quick for a while."""
        if self.venue.coming:
            self.venue.take(at, how)
        self._settle(at)

    @rule(arrives=st.booleans(), really=st.integers(0, 3))
    @precondition(lambda self: self.venue.connected)
    def disconnect(self, arrives: bool, really: int) -> None:
        if not really:
            self.venue.disconnect(arrives)
            self._account("disconnect")

    @rule()
    @precondition(lambda self: not self.venue.connected)
    def connect(self) -> None:
        self.venue.connected = True
        for log in self.venue.logs.values():
            log.append(None)
        self._account("connect")

    @rule(really=st.integers(0, 12))
    @precondition(lambda self: not self.sink.stopping)
    def stop(self, really: int) -> None:
        if not really:
            self.wanted = []
            self._account("stop")

    # ------------------------------------------------ how

    def submit(self, ts: int, commands: Sequence[Command]) -> None:
        """What the sink sends passes through here, and is judged as it is sent."""
        assert 0 < len(commands) <= BATCH
        before = self.venue.lives()
        for command in commands:
            if isinstance(command, Cancel):
                assert before[command.n].state not in {*ENDED, "pending_cancel"}
            elif isinstance(command, Modify):
                assert self.policy == "modify"
                assert before[command.n].state == "open"
                assert not before[command.n].unmovable
            elif isinstance(command, Create):
                assert not self.sink.stopping or (self.flatten and command.px is None)
                assert self.sink.stopping or command.px is not None
            if isinstance(command, Cancel | Modify) and self.allowed_to_touch is not None:
                level = before[command.n].level
                assert self.allowed_to_touch[level] > 0, "touched an order whose level stays"
                self.allowed_to_touch[level] -= 1
        kinds = [type(command) for command in commands]
        order = [Cancel, Modify, Create, Query]
        assert kinds == sorted(kinds, key=order.index)
        creates = [c for c in commands if isinstance(c, Create)]
        assert creates == sorted(creates, key=lambda c: (-c.side, -c.side * (c.px or 0)))
        self.venue.submit(ts, commands)
        if creates or Modify in kinds:
            self._judge_exposure(
                {before[c.n].side for c in commands if isinstance(c, Modify)}
                | {c.side for c in creates}
            )
        told = [u.n for u in self.updates if u.batch == len(self.venue.batches)]
        assert told == [c.n for c in commands if not isinstance(c, Query)]

    def _quote(self) -> None:
        assert self.quoted is not None
        (bids, bid_px), (asks, ask_px), qty = self.quoted
        decision = Decision(
            seq=1,
            ts=self.clock.now_ns,
            action="quote",
            bid_px=PX - bid_px if bids else None,
            bid_levels=bids,
            ask_px=PX + ask_px if asks else None,
            ask_levels=asks,
            level_step=TICK,
            qty=qty,
        )
        levels = [(BUY, PX - bid_px - i, qty) for i in range(bids)]
        self._want(decision, levels + [(SELL, PX + ask_px + i, qty) for i in range(asks)])

    def _judge_exposure(self, sides: set[int]) -> None:
        lives = list(self.venue.lives().values())
        position = self.first + sum(each.side * each.filled for each in lives)
        for side in sides:
            assert side * position + sum(e.leaves for e in lives if e.side == side) <= LIMIT
            true = side * self.venue.position + self.venue.left(side)
            # A fill of the other side that is not told makes room that the sink cannot know of.
            assert true <= LIMIT + self.venue.overtaken(side)

    def _want(self, decision: Decision, levels: list[Level]) -> None:
        if not self.sink.stopping:
            self.wanted = levels
        lives = list(self.venue.lives().values())
        held = Counter(
            each.level
            for each in lives
            if each.state not in {*ENDED, "pending_cancel"} and each.px is not None
        )
        position = self.first + sum(each.side * each.filled for each in lives)
        fits = all(
            side * position + sum(e.leaves for e in lives if e.side == side) <= LIMIT
            for side in (BUY, SELL)
        )
        if fits and self.policy != "cancel_all" and not self.sink.stopping:
            self.allowed_to_touch = held - Counter(levels)
        sent = len(self.venue.batches)
        self.sink.on_next(decision)
        if self.sink.stopping:
            assert len(self.venue.batches) == sent
        self.allowed_to_touch = None

    def _account(self, kind: AccountKind) -> None:
        self.sink.on_account(AccountEvent(seq=0, ts=self.clock.now_ns, kind=kind))

    def _tell(self, event: AccountEvent) -> None:
        n = event.n
        assert n is not None
        event = replace(event, ts=self.clock.now_ns)
        self.venue.told.append(event)
        self.venue.logs[n].append(event)
        if n in self.venue.real and self.venue.lives()[n].state in ENDED:
            self.venue.real[n].told_end = True
        self.venue.did[f"told {event.kind}"] += 1
        self.sink.on_account(event)

    def _settle(self, at: int = 0) -> None:
        while self.venue.connected and (self.venue.coming or self.venue.untold):
            while self.venue.coming:
                self.venue.take(0, "do")
            while self.venue.untold:
                self.tell(at)

    def _heal(self) -> None:
        """Answer everything truthfully, and let time pass until nothing more happens."""
        if not self.venue.connected:
            self.connect()
        for _ in range(200):
            self._settle()
            if self.clock.next_due_ns >= FOREVER_NS:
                return
            self.clock.advance(self.clock.next_due_ns)
        raise AssertionError("it never comes to rest")

    # ------------------------------------------------ what always holds

    @invariant()
    def every_order_is_what_its_log_says(self) -> None:
        lives = self.venue.lives()
        orders = self.sink.orders
        assert orders.created == len(self.made) == len(lives)
        for n, each in lives.items():
            order = orders.find(n)
            seen = (order.state, order.filled, order.leaves, order.px)
            assert seen == (each.state, each.filled, each.leaves, each.px), (n, self.venue.logs[n])
        assert set(orders.working) == {n for n, each in lives.items() if each.state not in ENDED}
        position = self.first + sum(each.side * each.filled for each in lives.values())
        assert orders.position == position
        for side in (BUY, SELL):
            leaves = sum(each.leaves for each in lives.values() if each.side == side)
            assert orders.worst_case(side) == position + side * leaves

    @invariant()
    def every_change_was_notified_and_every_fill_once(self) -> None:
        lives = self.venue.lives()
        latest = {update.n: update for update in self.updates}
        for n, each in lives.items():
            update = latest[n]
            assert (update.state, update.leaves, update.px) == (each.state, each.leaves, each.px)
        told = {id_ for log in self.venue.logs.values() for id_ in _ids(log)}
        assert sorted(str(fill.venue_id) for fill in self.fills) == sorted(map(str, told))
        filled = Counter[int]()
        for update in self.updates:
            filled[update.n] += update.filled
        assert {n: each.filled for n, each in lives.items()} == {n: filled[n] for n in lives}

    @invariant()
    def a_finished_sink_left_nothing_unreported(self) -> None:
        if self.sink.finished:
            left = {order.n for order in self.sink.left}
            working = {n for n, each in self.venue.lives().items() if each.state not in ENDED}
            assert working <= left

    def teardown(self) -> None:
        if not hasattr(self, "sink"):
            return
        self._heal()
        if not self.sink.stopping:
            if self.quoted:
                self._quote()  # What was filled in between is wanted again.
            self._heal()
            self._judge_quotes()
        self._account("stop")
        self._heal()
        self._settle()
        self.every_order_is_what_its_log_says()
        self.every_change_was_notified_and_every_fill_once()
        self.a_finished_sink_left_nothing_unreported()
        assert self.sink.finished
        if self.stop_ns == FOREVER_NS:
            assert not self.sink.left
            assert not self.venue.resting()
        assert self.sink.orders.position == self.venue.position
        SEEN.update(self.venue.did)
        SEEN.update(self.sink.orders.anomalies)

    def _judge_quotes(self) -> None:
        lives = list(self.venue.lives().values())
        works = [each for each in lives if each.state not in ENDED]
        assert all(each.state == "open" for each in works)
        assert len(works) == len(self.venue.resting())
        quoted = Counter(each.level for each in works)
        if self.policy == "keep":
            quoted = Counter((side, 0, size) for side, _, size in quoted.elements())
            missing = Counter((side, 0, size) for side, _, size in self.wanted) - quoted
            assert not quoted - Counter((side, 0, size) for side, _, size in self.wanted)
        else:
            missing = Counter(self.wanted) - quoted
            assert not quoted - Counter(self.wanted)
        for side, _, size in missing:
            worst = sum(each.leaves for each in works if each.side == side)
            assert side * self.venue.position + worst + size > LIMIT
        SEEN["quoted as wanted"] += bool(works) and not missing


SETTINGS = settings(
    max_examples=200, stateful_step_count=50, derandomize=True, deadline=None, database=None
)


def session(policy: ReplacePolicy) -> type[SinkAndVenue]:
    return type(f"With_{policy}", (SinkAndVenue,), {"policy": policy})


@pytest.mark.parametrize("policy", ["cancel_create", "modify", "keep", "cancel_all"])
def test_whatever_the_venue_does_the_sink_and_the_model_agree(policy: ReplacePolicy) -> None:
    SEEN.clear()

    run_state_machine_as_test(session(policy), settings=SETTINGS)

    # Guards the guard: sessions without these would prove nothing.
    for what in ("do Modify", "told modify") if policy == "modify" else ():
        assert SEEN[what], what
    for what in (
        "lose Create", "lose Cancel", "refuse Create", "told cancel_reject", "lost answer",
        "told again", "told expire", "fill told twice", "fill after the end of its order",
        "disconnected from the venue", "no answer in time: asked the venue", "quoted as wanted",
    ):  # fmt: skip
        assert SEEN[what], what
