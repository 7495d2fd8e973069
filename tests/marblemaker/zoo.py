"""A zoo: small operators that look harmless and whose decisions another run need not repeat.

Each is what a user might write. ``# caught`` stands at the line that strict must name; those that
strict cannot see are left to perturbation.
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import gc
import hashlib
import operator as operators
import os
import platform
import queue
import random
import secrets
import signal
import socket
import sys
import threading
import time
import uuid
import weakref
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.random import standard_normal
from reactivex import Observable, abc
from reactivex import operators as ops
from reactivex.scheduler import CurrentThreadScheduler

from operators.operator import Operator
from streams.clock import Clock
from streams.events import Quote
from streams.pump import Hot

SECOND = 1_000_000_000
START = 1_781_703_000 * SECOND
VENUES = ("NASDAQ", "ARCA", "BATS", "IEX", "MEMX", "EDGX")

Step = Callable[[Quote], float | None]
Made = Callable[[], Operator[Quote, float]]

STRICT: dict[str, Made] = {}
PERTURB: dict[str, Made] = {}
SOUND = "one_that_is_sound"


def steps(make: Callable[[], Step]) -> Operator[Quote, float]:
    """An operator whose state is born with each subscription."""

    def operator(source: Observable[Quote]) -> Observable[float]:
        def subscribe(
            observer: abc.ObserverBase[float], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            step = make()

            def on_next(quote: Quote) -> None:
                value = step(quote)
                if value is not None:
                    observer.on_next(value)

            return source.subscribe(
                on_next, observer.on_error, observer.on_completed, scheduler=scheduler
            )

        return Observable(subscribe)

    return operator


def stepwise(shelf: dict[str, Made]) -> Callable[[Callable[[], Step]], Callable[[], Step]]:
    def keep(make: Callable[[], Step]) -> Callable[[], Step]:
        shelf[make.__name__] = functools.partial(steps, make)
        return make

    return keep


caught = stepwise(STRICT)
perturbed = stepwise(PERTURB)


def quotes(n: int = 48) -> list[Quote]:
    source = random.Random(7)
    px, found = 207 * SECOND, []
    for i in range(n):
        px += source.randint(-5, 5) * 10_000_000
        ts = START + i * SECOND // 4
        found.append(Quote(i + 1, ts, ts, px, px + 20_000_000, SECOND, 2 * SECOND, 128))
    return found


def outputs(operator: Operator[Quote, float], stream: Sequence[Quote]) -> list[float]:
    """What an operator puts out, run as the pump runs it."""
    clock, source, found = Clock(stream[0].ts), Hot[Quote](), list[float]()
    source.pipe(operator).subscribe(found.append, scheduler=clock)
    for quote in stream:
        clock.advance(quote.ts)
        source.push(quote)
    source.on_completed()
    return found


def mid(quote: Quote) -> float:
    assert quote.bid_px is not None
    assert quote.ask_px is not None
    return (quote.bid_px + quote.ask_px) / 2


def digest(values: Sequence[float]) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


# ---------------------------------------------------------------- the wall clock


@caught
def a_throttle_by_the_wall_clock() -> Step:
    last = 0

    def step(quote: Quote) -> float | None:
        nonlocal last
        now = time.time_ns()  # caught
        if now - last < 1_000:
            return None
        last = now
        return mid(quote)

    return step


@caught
def a_session_check_by_now() -> Step:
    def step(quote: Quote) -> float | None:
        hour = dt.datetime.now(dt.UTC).hour  # caught
        return mid(quote) if 13 <= hour < 20 else None

    return step


@caught
def a_holiday_check_by_today() -> Step:
    return lambda quote: mid(quote) * (dt.date.today().weekday() < 5)  # noqa: DTZ011 # caught


@caught
def an_age_by_the_monotonic_clock() -> Step:
    born = 0.0

    def step(quote: Quote) -> float | None:
        nonlocal born
        born = born or time.monotonic()  # caught
        return mid(quote) if time.monotonic() - born < 5 else None

    return step


@caught
def a_budget_of_cpu_time() -> Step:
    def step(quote: Quote) -> float | None:
        began = perf_counter()  # caught
        value = mid(quote)
        return value if perf_counter() - began < 1e-6 else value + 1

    return step


@caught
def a_pause_between_quotes() -> Step:
    def step(quote: Quote) -> float:
        time.sleep(0)  # caught
        return mid(quote)

    return step


@caught
def a_calendar_without_an_argument() -> Step:
    return lambda quote: mid(quote) + time.gmtime().tm_hour  # caught


@caught
def a_time_in_the_zone_of_this_machine() -> Step:
    def step(quote: Quote) -> float:
        return float(dt.datetime.fromtimestamp(quote.ts / 1e9).hour)  # noqa: DTZ006 # caught

    return step


@caught
def a_default_that_calls_the_clock() -> Step:
    def step(quote: Quote) -> float:
        seen: defaultdict[int, float] = defaultdict(time.time)
        return mid(quote) + seen[quote.seq]  # caught

    return step


@caught
def a_clock_in_a_dataclass() -> Step:
    @dataclass
    class Signal:
        value: float
        at: float = field(default_factory=lambda: time.time())  # caught

    return lambda quote: Signal(mid(quote)).at


@caught
def a_cache_of_the_clock() -> Step:
    @functools.lru_cache
    def opened() -> float:
        return time.time()  # caught

    return lambda quote: mid(quote) - opened()


@caught
def a_clock_behind_an_except() -> Step:
    def step(quote: Quote) -> float:
        try:
            return mid(quote) + time.time()  # caught
        except Exception:
            return mid(quote)

    return step


def a_library_that_asks_the_clock() -> Operator[Quote, float]:
    def operator(source: Observable[Quote]) -> Observable[float]:
        def seconds(stamped: Any) -> float:
            return float(stamped.timestamp.timestamp())

        return source.pipe(ops.map(mid), ops.timestamp(CurrentThreadScheduler()), ops.map(seconds))

    return operator


# ---------------------------------------------------------------- random numbers


@caught
def jitter_without_a_seed() -> Step:
    source = random.Random()  # caught
    return lambda quote: mid(quote) + source.random()


@caught
def jitter_of_everybody() -> Step:
    return lambda quote: random.gauss(mid(quote), 1.0)  # caught


@caught
def jitter_of_numpy() -> Step:
    def step(quote: Quote) -> float:
        return mid(quote) + float(np.random.normal())  # caught

    return step


@caught
def jitter_of_numpy_by_name() -> Step:
    return lambda quote: mid(quote) + standard_normal()  # caught


@caught
def a_generator_without_a_seed() -> Step:
    generator = np.random.default_rng()  # caught
    return lambda quote: mid(quote) + float(generator.normal())


@caught
def levels_in_shuffled_order() -> Step:
    def step(quote: Quote) -> float:
        levels = [1, 2, 3, 4, 5]
        random.shuffle(levels)  # caught
        return mid(quote) + levels[0]

    return step


@caught
def tags_by_uuid4() -> Step:
    return lambda quote: float(uuid.uuid4().int % 97)  # caught


@caught
def tags_by_uuid1() -> Step:
    return lambda quote: float(uuid.uuid1().int % 97)  # caught


@caught
def a_secret_size() -> Step:
    return lambda quote: mid(quote) + secrets.randbelow(10)  # caught


@caught
def bytes_of_the_system() -> Step:
    return lambda quote: mid(quote) + os.urandom(1)[0]  # caught


# ---------------------------------------------------------------- the environment, inputs


@caught
def a_switch_in_the_environment() -> Step:
    def step(quote: Quote) -> float:
        return mid(quote) * (2.0 if "MARBLE_AGGRESSIVE" in os.environ else 1.0)  # caught

    return step


@caught
def a_factor_in_the_environment() -> Step:
    return lambda quote: mid(quote) * float(os.getenv("MARBLE_FACTOR", "1"))  # caught


@caught
def a_switch_on_the_command_line() -> Step:
    return lambda quote: mid(quote) + ("--wide" in sys.argv)  # caught


@caught
def a_number_of_the_process() -> Step:
    return lambda quote: mid(quote) + os.getpid() % 2  # caught


@caught
def the_name_of_the_machine() -> Step:
    return lambda quote: mid(quote) + len(socket.gethostname())  # caught


@caught
def the_kind_of_machine() -> Step:
    return lambda quote: mid(quote) + (platform.machine() == "arm64")  # caught


@caught
def a_parameter_in_a_file() -> Step:
    def step(quote: Quote) -> float:
        return mid(quote) + len(Path(__file__).read_text())  # caught

    return step


@caught
def files_of_a_folder() -> Step:
    return lambda quote: mid(quote) + len(os.listdir("."))  # caught


# ---------------------------------------------------------------- threads


@caught
def a_timer_thread() -> Step:
    late: list[float] = []

    def step(quote: Quote) -> float:
        timer = threading.Timer(0.0, late.append, [1.0])
        timer.start()  # caught
        return mid(quote) + len(late)

    return step


@caught
def a_result_of_a_pool() -> Step:
    pool = ThreadPoolExecutor(1)

    def step(quote: Quote) -> float:
        return pool.submit(mid, quote).result()  # caught

    return step


@caught
def a_bucket_by_thread() -> Step:
    return lambda quote: mid(quote) + threading.get_ident() % 7  # caught


@caught
def a_wait_for_a_queue() -> Step:
    waiting: queue.Queue[float] = queue.Queue()

    def step(quote: Quote) -> float:
        waiting.put(mid(quote))  # caught
        return waiting.get()

    return step


# ---------------------------------------------------------------- the order of a set


@caught
def venues_in_the_order_of_a_set() -> Step:
    venues = set(VENUES)

    def step(quote: Quote) -> float:
        best = 0.0
        for i, venue in enumerate(VENUES):
            best += i * len(venue)
        for venue in venues:  # caught
            best = best / 2 + len(venue)
        return mid(quote) + best

    return step


@caught
def a_dict_built_from_a_set() -> Step:
    def step(quote: Quote) -> float:
        ranks = {venue: i for i, venue in enumerate({*VENUES, "LSE"})}  # caught
        return mid(quote) + ranks["IEX"]

    return step


@caught
def a_dict_from_keys_of_a_set() -> Step:
    def step(quote: Quote) -> float:
        known = dict.fromkeys(frozenset(VENUES))  # caught
        return mid(quote) + len(next(iter(known)))

    return step


@caught
def the_first_of_a_frozenset() -> Step:
    venues = frozenset(VENUES)
    return lambda quote: mid(quote) + len(next(iter(venues)))  # caught


@caught
def any_one_popped() -> Step:
    def step(quote: Quote) -> float:
        venues = set(VENUES)
        return mid(quote) + len(venues.pop())  # caught

    return step


@caught
def a_set_of_pairs_with_names() -> Step:
    fees = {("NASDAQ", 3), ("IEX", 9), ("ARCA", 4)}

    def step(quote: Quote) -> float:
        return mid(quote) + [fee for _, fee in fees][0]  # noqa: RUF015 # caught

    return step


class Level:
    def __init__(self, px: float) -> None:
        self.px = px


@caught
def objects_in_a_set() -> Step:
    levels = {Level(1.0), Level(2.0), Level(3.0)}

    def step(quote: Quote) -> float:
        total = mid(quote)
        for level in levels:  # caught
            total = total / 2 + level.px
        return total

    return step


class Side(enum.Enum):
    BUY = 1
    SELL = -1


@caught
def members_of_an_enum_in_a_set() -> Step:
    def step(quote: Quote) -> float:
        sides = {Side.BUY, Side.SELL}
        first, _ = sides  # caught
        return mid(quote) + first.value

    return step


@dataclass(frozen=True)
class Tag:
    venue: str
    n: int


@caught
def frozen_values_with_names_in_a_set() -> Step:
    tags = {Tag("IEX", 1), Tag("ARCA", 2)}
    return lambda quote: mid(quote) + list(tags)[0].n  # noqa: RUF015 # caught


@caught
def names_joined_from_a_set() -> Step:
    return lambda quote: mid(quote) + "-".join({"bid", "ask", "mid"}).index("mid")  # caught


@caught
def a_set_in_a_text() -> Step:
    return lambda quote: mid(quote) + f"{frozenset(VENUES)}".index("IEX")  # caught


@caught
def a_set_spread_over_arguments() -> Step:
    def first(one: str, *rest: str) -> float:
        return len(one) - len(rest)

    return lambda quote: mid(quote) + first(*set(VENUES))  # caught


@caught
def equals_by_a_key() -> Step:
    return lambda quote: mid(quote) + ord(min({"IEX", "LSE", "CME"}, key=len)[0])  # caught


@caught
def fractions_summed_over_a_set() -> Step:
    weights = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 1e16}

    def step(quote: Quote) -> float:
        return sum(weights[name] for name in set(weights))  # caught

    return step


@caught
def the_order_of_a_union_of_keys() -> Step:
    bids, asks = dict.fromkeys(VENUES[:4], 1.0), dict.fromkeys(VENUES[2:], 2.0)

    def step(quote: Quote) -> float:
        book = deque(bids.keys() | asks.keys(), maxlen=3)  # caught
        return mid(quote) + len(book[0])

    return step


@caught
def the_most_common_of_a_set() -> Step:
    def step(quote: Quote) -> float:
        counted = Counter(set(VENUES))  # caught
        return mid(quote) + len(counted.most_common(1)[0][0])

    return step


# ---------------------------------------------------------------- addresses and hashes


@caught
def orders_keyed_by_address() -> Step:
    def step(quote: Quote) -> float:
        return float(id(quote) % 1009)  # caught

    return step


@caught
def levels_sorted_by_address() -> Step:
    def step(quote: Quote) -> float:
        levels = [Level(mid(quote) + i) for i in range(9)]
        return sorted(levels, key=id)[0].px  # caught

    return step


@caught
def a_bucket_by_the_hash_of_a_name() -> Step:
    return lambda quote: mid(quote) + hash("NVDA.NASDAQ") % 4  # caught


@caught
def names_mapped_to_hashes() -> Step:
    return lambda quote: mid(quote) + max(map(hash, VENUES)) % 16  # caught


@caught
def equal_numbers_that_are_one_object() -> Step:
    last: int | None = None

    def step(quote: Quote) -> float:
        nonlocal last
        px, last = last, int(str(START))
        return mid(quote) + (px is last)  # caught

    return step


# ---------------------------------------------------------------- the garbage collector


@caught
def a_cache_by_weak_references() -> Step:
    class Node:
        own: Any = None

    last: Any = None

    def step(quote: Quote) -> float:
        nonlocal last
        alive = last is not None and last() is not None
        node = Node()
        node.own = node
        last = weakref.ref(node)  # caught
        return mid(quote) + alive

    return step


@caught
def a_count_of_the_collector() -> Step:
    return lambda quote: mid(quote) + gc.get_count()[0]  # caught


@caught
def a_count_of_references() -> Step:
    return lambda quote: mid(quote) + sys.getrefcount(quote)  # caught


@caught
def a_callback_of_the_collector() -> Step:
    runs: list[str] = []

    def collected(phase: str, _info: dict[str, int]) -> None:
        runs.append(phase)

    def step(quote: Quote) -> float:
        if collected not in gc.callbacks:
            gc.callbacks.append(collected)  # caught
        return mid(quote) + len(runs)

    return step


# ---------------------------------------------------------------- what only other runs show


_STARTED = time.time_ns()
_SALT = hash("marble")


@perturbed
def a_clock_read_at_import() -> Step:
    return lambda quote: float((quote.ts - _STARTED) % 1009)


@perturbed
def a_hash_taken_at_import() -> Step:
    return lambda quote: mid(quote) + _SALT % 1009


as_sequence = list


@perturbed
def a_set_behind_another_name() -> Step:
    def step(quote: Quote) -> float:
        ranks = as_sequence(set(VENUES))
        return mid(quote) + sum(ord(name[1]) << i for i, name in enumerate(ranks))

    return step


@perturbed
def a_set_inside_compiled_code() -> Step:
    pick = operators.methodcaller("pop")
    return lambda quote: mid(quote) + sum(map(ord, pick(set(VENUES))))


class Average:
    seen: list[float] = []  # noqa: RUF012 - the fault: one list for all

    def of(self, value: float) -> float:
        self.seen.append(value)
        return sum(self.seen) / len(self.seen)


@perturbed
def state_of_the_class() -> Step:
    average = Average()
    return lambda quote: average.of(mid(quote))


@perturbed
def state_in_a_default_argument() -> Step:
    return functools.partial(_remembering)


def _remembering(quote: Quote, seen: list[float] = []) -> float:  # noqa: B006 - the fault
    seen.append(mid(quote))
    return max(seen) + len(seen)


_collections = 0


def _on_collection(phase: str, _info: dict[str, int]) -> None:
    global _collections
    _collections += phase == "start"


@perturbed
def collections_since_the_start() -> Step:
    def step(quote: Quote) -> float:
        garbage = [[one] for one in range(2_000)]
        return mid(quote) + len(garbage) + _collections

    return step


class Held:
    freed = 0

    def __init__(self) -> None:
        self.own = self

    def __del__(self) -> None:
        Held.freed += 1


@perturbed
def cycles_that_were_freed() -> Step:
    Held.freed = 0

    def step(quote: Quote) -> float:
        for _ in range(40):
            Held()
        return mid(quote) + Held.freed

    return step


_batch: Sequence[Quote] = ()


@perturbed
def the_last_of_the_batch() -> Step:
    return lambda quote: mid(quote) - mid(_batch[-1])


def digests(batch_rows: int) -> dict[str, str]:
    """A digest of each, fed in batches as a replay feeds them; for ``perturb_callable``."""
    global _batch
    print("a word on standard output, where the answer is expected")  # noqa: T201
    stream, found = quotes(), {}
    sound: Made = functools.partial(steps, lambda: mid)
    gc.callbacks.append(_on_collection)
    try:
        for name, made in {**PERTURB, SOUND: sound}.items():
            clock, source, values = Clock(stream[0].ts), Hot[Quote](), list[float]()
            source.pipe(made()).subscribe(values.append, scheduler=clock)
            for at in range(0, len(stream), batch_rows):
                _batch = stream[at : at + batch_rows]
                for quote in _batch:
                    source.push(quote)
            found[name] = digest(values)
    finally:
        gc.callbacks.remove(_on_collection)
    return found


def killed() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""
