"""The tame half of the zoo: operators that look like the wild ones, and are sound."""

from __future__ import annotations

import bisect
import copy
import datetime as dt
import decimal
import enum
import fractions
import functools
import hashlib
import heapq
import itertools
import json
import logging
import math
import operator as operators
import random
import re
import statistics
import struct
import time
import uuid
import zlib
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
from reactivex import Observable, abc
from reactivex import operators as ops

from operators.operator import Operator, clock_of
from streams.events import Quote
from tests.marblemaker.zoo import VENUES, Made, Step, mid, stepwise

TAME: dict[str, Made] = {}
tame = stepwise(TAME)


@tame
def a_seed_for_each_subscription() -> Step:
    source = random.Random(7)

    def step(quote: Quote) -> float:
        levels = [1, 2, 3]
        source.shuffle(levels)
        return mid(quote) + source.gauss(0.0, 1.0) + levels[0] + source.choice(VENUES).__len__()

    return step


@tame
def a_seed_from_the_event() -> Step:
    return lambda quote: mid(quote) + random.Random(quote.seq).random()


@tame
def a_seeded_generator() -> Step:
    generator = np.random.default_rng(7)
    return lambda quote: mid(quote) + float(generator.normal()) + int(generator.integers(9))


@tame
def a_seeded_state_of_numpy() -> Step:
    def step(quote: Quote) -> float:
        return mid(quote) + float(np.random.RandomState(quote.seq).normal())

    return step


def time_from_the_scheduler() -> Operator[Quote, float]:
    def operator(source: Observable[Quote]) -> Observable[float]:
        def subscribe(
            observer: abc.ObserverBase[float], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            clock = clock_of(scheduler, "time_from_the_scheduler")

            def on_next(quote: Quote) -> None:
                due = clock.now_ns + 1_000
                clock.schedule_ns(due, lambda *_: observer.on_next(float(clock.now_ns)))

            return source.subscribe(on_next, observer.on_error, observer.on_completed)

        return Observable(subscribe)

    return operator


def standard_operators_on_the_clock() -> Operator[Quote, float]:
    def operator(source: Observable[Quote]) -> Observable[float]:
        def decayed(total: float, pair: tuple[float, float]) -> float:
            return total / 2 + pair[1]

        paired = source.pipe(ops.map(mid), ops.throttle_first(0.3), ops.pairwise())
        return paired.pipe(ops.scan(decayed, 0.0), ops.distinct_until_changed())

    return operator


TAME["time_from_the_scheduler"] = time_from_the_scheduler
TAME["standard_operators_on_the_clock"] = standard_operators_on_the_clock


@tame
def a_sorted_set() -> Step:
    return lambda quote: mid(quote) + sum(i * len(v) for i, v in enumerate(sorted(set(VENUES))))


@tame
def a_set_sorted_by_a_key_without_ties() -> Step:
    def step(quote: Quote) -> float:
        return mid(quote) + ord(sorted({"a", "bb", "ccc"}, key=len)[0])

    return step


@tame
def the_size_of_a_set() -> Step:
    venues: set[str] = set()

    def step(quote: Quote) -> float:
        venues.add(VENUES[quote.seq % 6])
        venues.discard("IEX")
        return mid(quote) + len(venues)

    return step


@tame
def membership() -> Step:
    return lambda quote: mid(quote) + (VENUES[quote.seq % 6] in {"IEX", "ARCA", "NYSE"})


@tame
def set_algebra() -> Step:
    def step(quote: Quote) -> float:
        a, b = set(VENUES[:4]), frozenset(VENUES[2:])
        a |= {"LSE"}
        a -= {"IEX"}
        a.update(("CME",), {"ICE", "XETRA"})
        return mid(quote) + len(a & b) + len(a ^ b) + (a <= b) + a.isdisjoint(b) + len(a.union(b))

    return step


@tame
def least_and_greatest_of_a_set() -> Step:
    def step(quote: Quote) -> float:
        venues = set(VENUES)
        return mid(quote) + len(min(venues)) + len(max(*venues)) + max(len(v) for v in venues)

    return step


@tame
def any_and_all_of_a_set() -> Step:
    def step(quote: Quote) -> float:
        venues = {*VENUES, "LSE"}
        return mid(quote) + any(v == "IEX" for v in venues) + all([len(v) > 2 for v in venues])

    return step


@tame
def a_set_from_a_set() -> Step:
    def step(quote: Quote) -> float:
        names = {venue.lower() for venue in set(VENUES)}
        return mid(quote) + len(names | frozenset(name[0] for name in names))

    return step


@tame
def a_count_over_a_set() -> Step:
    return lambda quote: mid(quote) + sum(len(v) > 3 for v in set(VENUES))


@tame
def a_set_of_numbers() -> Step:
    def step(quote: Quote) -> float:
        orders = {quote.seq, quote.seq + 3, quote.ts, True}
        total = 0.0
        for n in orders:
            total = total / 2 + n
        return total + list(orders)[0] + orders.pop()  # noqa: RUF015

    return step


@tame
def a_set_of_pairs_of_numbers() -> Step:
    def step(quote: Quote) -> float:
        levels = {(1, 2.5), (3, 4.5), (quote.seq, 0.5)}
        return [px for _, px in levels][0] + len(",".join(str(n) for n, _ in levels))  # noqa: RUF015

    return step


class Kind(enum.IntEnum):
    BID = 1
    ASK = 2


class Rung(msgspec.Struct, frozen=True):
    px: int
    qty: float


@dataclass(frozen=True)
class Pair:
    a: int
    b: tuple[int, ...] = ()


@tame
def sets_of_what_holds_numbers_only() -> Step:
    def step(quote: Quote) -> float:
        found = [*{Kind.BID, Kind.ASK}, *{dt.timedelta(1), dt.timedelta(2)}]
        found += {Rung(1, 2.0), Rung(3, 4.0)}
        found += {Pair(1, (2,)), Pair(2)}
        found += {Decimal("1.5"), Decimal("2.5")} | {fractions.Fraction(1, 3)}
        return mid(quote) + len(found)

    return step


@tame
def a_set_of_one() -> Step:
    def step(quote: Quote) -> float:
        (only,) = {VENUES[quote.seq % 6]}
        return mid(quote) + len(only) + len(next(iter(frozenset({"IEX"}))))

    return step


@tame
def the_order_of_a_dict() -> Step:
    def step(quote: Quote) -> float:
        book = dict.fromkeys(VENUES, 1.0) | {"LSE": 2.0}
        total = 0.0
        for i, (venue, size) in enumerate(book.items()):
            total += i * size * len(venue)
        del book["IEX"]
        first, *_ = book
        return total + len(first) + len("".join(book.keys())) + book.popitem()[1]

    return step


@tame
def ordered_default_and_counted_dicts() -> Step:
    def step(quote: Quote) -> float:
        ordered = OrderedDict((v, i) for i, v in enumerate(VENUES))
        ordered.move_to_end("IEX")
        sizes: defaultdict[str, list[int]] = defaultdict(list)
        sizes["a"].append(quote.seq)
        counted = Counter(VENUES).most_common(2)
        return mid(quote) + list(ordered.values())[0] + len(sizes) + counted[0][1]  # noqa: RUF015

    return step


@tame
def the_hash_of_a_number() -> Step:
    return lambda quote: mid(quote) + hash(quote.seq) % 4 + hash((quote.ts, 1.5)) % 8


class Key:
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.name == other.name


@tame
def a_class_with_a_hash_of_its_own() -> Step:
    sizes: dict[Key, float] = {}

    def step(quote: Quote) -> float:
        sizes[Key(VENUES[quote.seq % 6])] = mid(quote)
        return sum(sizes.values()) + (Key("IEX") in {Key("IEX"), Key("ARCA")})

    return step


@tame
def a_datetime_from_the_event() -> Step:
    def step(quote: Quote) -> float:
        at = dt.datetime.fromtimestamp(quote.ts // 10**9, tz=dt.UTC)
        opens = at.replace(hour=13, minute=30)
        local = at.astimezone(dt.timezone(dt.timedelta(hours=-4)))
        return (at - opens) / dt.timedelta(seconds=1) + local.hour + len(f"{at:%H:%M}")

    return step


@tame
def a_calendar_from_the_event() -> Step:
    def step(quote: Quote) -> float:
        return float(time.gmtime(quote.ts // 10**9).tm_hour + dt.date(2026, 6, 17).weekday())

    return step


@tame
def arithmetic_of_spans() -> Step:
    return lambda quote: mid(quote) + (dt.timedelta(seconds=90) // dt.timedelta(seconds=7))


@tame
def a_name_based_uuid() -> Step:
    return lambda quote: float(uuid.uuid5(uuid.NAMESPACE_URL, str(quote.seq)).int % 97)


@tame
def stable_hashes() -> Step:
    def step(quote: Quote) -> float:
        text = f"{quote.seq}:NVDA".encode()
        return float(hashlib.sha256(text).digest()[0] + zlib.crc32(text) % 7)

    return step


@tame
def a_window_in_a_deque() -> Step:
    window: deque[float] = deque(maxlen=5)

    def step(quote: Quote) -> float:
        window.append(mid(quote))
        return statistics.fmean(window) + statistics.median(window) + window[0]

    return step


@tame
def a_heap() -> Step:
    heap: list[tuple[float, int]] = []

    def step(quote: Quote) -> float:
        heapq.heappush(heap, (mid(quote), quote.seq))
        return heap[0][0] + heapq.nlargest(1, heap)[0][1]

    return step


@tame
def itertools_and_all() -> Step:
    def step(quote: Quote) -> float:
        pairs = itertools.pairwise(itertools.chain(VENUES, ("LSE",)))
        runs = itertools.groupby(sorted(VENUES, key=len), key=len)
        return mid(quote) + sum(len(a) < len(b) for a, b in pairs) + sum(n for n, _ in runs)

    return step


@tame
def a_pure_cache() -> Step:
    @functools.lru_cache(maxsize=4)
    def square(value: float) -> float:
        return value * value

    return lambda quote: square(mid(quote)) + functools.reduce(operators.add, (1, 2, 3))


@tame
def a_cache_by_name() -> Step:
    @functools.cache
    def length(venue: str) -> int:
        return len(venue)

    return lambda quote: mid(quote) + length(VENUES[quote.seq % 6])


@tame
def levels_by_bisection() -> Step:
    levels = [i * 1e9 for i in range(300)]

    def step(quote: Quote) -> float:
        copied = copy.deepcopy(levels[:3])
        bisect.insort(copied, 1.5)
        return bisect.bisect(levels, mid(quote)) + copied[2]

    return step


@tame
def mathematics() -> Step:
    def step(quote: Quote) -> float:
        return math.fsum((mid(quote), 0.1, 1e-9)) + math.sqrt(2) + math.gcd(quote.ts, 12)

    return step


@tame
def a_state_of_slots() -> Step:
    class State:
        __slots__ = ("baseline",)

        def __init__(self) -> None:
            self.baseline: float | None = None

    state = State()

    def step(quote: Quote) -> float:
        before = mid(quote) if state.baseline is None else state.baseline
        state.baseline = 0.9 * before + 0.1 * mid(quote)
        return mid(quote) / state.baseline - 1

    return step


@tame
def replaced_structs() -> Step:
    def step(quote: Quote) -> float:
        moved = msgspec.structs.replace(quote, bid_px=1, ask_px=3)
        first: int = msgspec.structs.astuple(moved)[0]
        return mid(moved) + replace(Pair(1), a=quote.seq).a + first

    return step


Side = namedtuple("Side", "px qty")


@tame
def text() -> Step:
    def step(quote: Quote) -> float:
        side = Side(quote.bid_px, quote.bid_sz)
        told = f"{side.px!r:>20} {mid(quote):.3f} %d" % quote.seq
        encoded = json.dumps({"px": side.px, "venues": VENUES}, sort_keys=True)
        return len(told) + len(encoded) + len(re.findall(r"\d", told)) + len(repr(side))

    return step


@tame
def numbers_to_bytes() -> Step:
    return lambda quote: float(struct.pack("<q", quote.ts)[0] + quote.seq.to_bytes(4, "big")[-1])


@tame
def exact_decimals() -> Step:
    def step(quote: Quote) -> float:
        with decimal.localcontext() as context:
            context.prec = 12
            return float(Decimal(quote.seq) / 3)

    return step


@tame
def sentinels_and_types_by_is() -> Step:
    nothing, last = object(), None
    side: Any = nothing

    def step(quote: Quote) -> float:
        nonlocal side, last
        fresh = side is nothing or last is None
        side, last = "bid", quote
        return mid(quote) + fresh + (type(quote) is Quote) + (last is quote) + (side is not last)

    return step


@tame
def arguments_called_like_builtins() -> Step:
    def known(id: int, hash: str) -> int:
        return id + len(hash)

    def pop(names: set[str]) -> bool:
        return "IEX" in names

    def update(names: frozenset[str]) -> int:
        return len(names)

    now = {"time": 1.0}

    def step(quote: Quote) -> float:
        return mid(quote) + known(quote.seq, "x") + pop(set(VENUES)) + now["time"] + (
            update(frozenset(VENUES))
        )  # fmt: skip

    return step


@tame
def a_word_to_the_log() -> Step:
    log = logging.getLogger("zoo")

    def step(quote: Quote) -> float:
        log.warning("mid %s", mid(quote))
        return mid(quote)

    return step


@tame
def a_module_loaded_late() -> Step:
    def step(quote: Quote) -> float:
        import colorsys

        return colorsys.rgb_to_yiq(1.0, 0.5, 0.25)[0] + mid(quote)

    return step


@tame
def generators_and_unpacking() -> Step:
    def levels(value: float) -> Any:
        yield from (value + i for i in range(3))

    def step(quote: Quote) -> float:
        first, *rest = levels(mid(quote))
        a, b = (1, 2) if quote.seq % 2 else [3, 4]
        both = [*rest, *(a, b)]
        both[:1] = (5.0, 6.0)
        both += [7.0]
        return float(first + sum(both))

    return step


@tame
def an_error_that_is_dealt_with() -> Step:
    def step(quote: Quote) -> float:
        try:
            return {"a": 1.0}[str(quote.seq)]
        except KeyError as error:
            return mid(quote) + len(str(error))

    return step


@tame
def popped_from_lists_and_dicts() -> Step:
    def step(quote: Quote) -> float:
        waiting, book = [1.0, 2.0, mid(quote)], {"IEX": 2.0}
        return waiting.pop() + waiting.pop(0) + book.pop("IEX")

    return step


@tame
def arrays() -> Step:
    def step(quote: Quote) -> float:
        levels = np.array([mid(quote), 1.0, 2.0])
        return float(np.sort(levels)[::-1].sum() + np.median(levels) + levels.argmax())

    return step


@tame
def methods_and_supers() -> Step:
    class Base:
        def update(self, value: float) -> float:
            return value

    class Twice(Base):
        def update(self, value: float) -> float:
            return super().update(value) * 2 + self.__weight()

        def __weight(self) -> float:
            return 1.0

    twice = Twice()
    return lambda quote: twice.update(mid(quote))
