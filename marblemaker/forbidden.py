"""What no decision may read, because a replay could not read the same again."""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType
from typing import Any, Final

from msgspec import Struct

__all__ = ["FORBIDDEN_NAMES", "WAY_OUT", "Forbidden", "Reading", "forbidden"]

CLOCK: Final = "the wall clock"
RANDOM: Final = "an unseeded random number"
ENVIRONMENT: Final = "the environment of the process"
INPUT: Final = "an input outside the log"
THREAD: Final = "a thread"
IDENTITY: Final = "an address or hash of this process"
GARBAGE: Final = "the garbage collector"
ORDER: Final = "the order of a set"

WAY_OUT: Final = {
    CLOCK: "take time from the event (ts) or from the scheduler (now_ns)",
    RANDOM: "draw from a random.Random(seed) that is made inside subscribe",
    ENVIRONMENT: "read it once before the run and pass it to the operator as an argument",
    INPUT: "read it before the run and pass it as an argument, or record it as an input",
    THREAD: "work on the thread of the graph; use the scheduler for what comes later",
    IDENTITY: "order and bucket by a field of the value (seq, n), not by where it lies in memory",
    GARBAGE: "keep what a decision needs by a plain reference, and count it yourself",
    ORDER: "iterate over sorted(...) of it, or keep a dict, whose order is that of insertion",
}


class Reading(Struct, frozen=True):
    """One thing that may not be read."""

    kind: str
    """One of the keys of ``WAY_OUT``."""
    what: str
    """As one would write it: ``time.time()``."""
    direct: bool = False
    """Only where the code on the path asks itself; libraries may, for their own ends."""


class Forbidden(Struct, frozen=True):
    """All that may not be read, found in this process as it is now."""

    builtins: dict[Callable[..., Any], Reading]
    """C functions: the profiler names them when they are called."""
    codes: dict[int, tuple[CodeType, Reading, Callable[[FrameType], bool] | None]]
    """Python functions by ``id`` of their code, with a test of the call where not all are bad."""
    hidden: list[tuple[Any, str, Any, Reading]]
    """Owner, name and value of compiled functions whose calls no profiler sees."""
    objects: dict[int, Reading]
    """Objects that may not be looked at, by ``id``."""
    types: dict[Callable[..., Any], Reading]
    """Types that may not be made by the code on the path itself."""


# module: names. A name with a dot is a method.
_TABLE: Final[dict[str, dict[str, str]]] = {
    CLOCK: {
        "time": "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time "
        "process_time_ns thread_time thread_time_ns clock_gettime clock_gettime_ns sleep",
    },
    RANDOM: {
        "random": "random getrandbits setstate",
        "os": "urandom getrandom",
        "uuid": "uuid1 uuid4",
        "secrets": "token_bytes token_hex token_urlsafe randbelow",
    },
    ENVIRONMENT: {
        "os": "getpid getppid getcwd getcwdb uname getlogin cpu_count getloadavg getuid geteuid "
        "getgid getpgid times sched_getaffinity get_terminal_size _Environ.__getitem__ "
        "_Environ.__iter__ _Environ.__len__ _Environ.copy",
        "socket": "gethostname getfqdn",
        "platform": "uname node system release version machine platform processor "
        "python_build libc_ver freedesktop_os_release",
        "getpass": "getuser",
        "uuid": "getnode",
        "resource": "getrusage",
    },
    INPUT: {
        "io": "open open_code",
        "builtins": "input",
        "os": "open read stat lstat fstat listdir scandir access readlink popen system fork "
        "posix_spawn statvfs",
        "socket": "socket.__init__ create_connection getaddrinfo gethostbyname",
        "subprocess": "Popen.__init__",
        "getpass": "getpass",
        "select": "select poll epoll",
        "sqlite3": "connect",
        "_sqlite3": "connect",
        "numpy": "fromfile",
    },
    THREAD: {
        "_thread": "start_new_thread start_joinable_thread",
        "threading": "Thread.start Thread.join Event.wait Condition.wait Barrier.wait",
        "concurrent.futures.thread": "ThreadPoolExecutor.submit",
        "concurrent.futures": "Future.result Future.exception wait as_completed",
        "queue": "Queue.get Queue.put PriorityQueue.get LifoQueue.get",
        "asyncio": "run new_event_loop get_event_loop to_thread",
        "multiprocessing.process": "BaseProcess.start",
    },
    GARBAGE: {
        "gc": "get_count collect get_objects get_referrers get_referents get_stats isenabled "
        "is_tracked get_freeze_count",
        "sys": "getrefcount getallocatedblocks _debugmallocstats",
    },
}  # fmt: skip

_DIRECT: Final[dict[str, dict[str, str]]] = {
    THREAD: {
        "threading": "get_ident get_native_id current_thread main_thread active_count enumerate",
        "_thread": "get_ident get_native_id",
    },
}

_ONLY_IF_LOADED: Final = ("numpy",)
_READ_FILES: Final = ("read_", "scan_")
_SEEDED: Final = ("default_rng", "Generator", "RandomState", "get_state", "get_bit_generator")

FORBIDDEN_NAMES: Final = frozenset(
    name
    for table in (_TABLE, _DIRECT)
    for modules in table.values()
    for names in modules.values()
    for name in names.split()
    if "." not in name
) | {"id", "hash", "argv", "now", "utcnow", "today"}
"""What these things are called where code hands them on without calling them."""


def forbidden() -> Forbidden:
    """Look up everything that may not be read; modules that are not loaded are left out."""
    found = Forbidden(builtins={}, codes={}, hidden=[], objects={}, types={})
    for table, direct in ((_TABLE, False), (_DIRECT, True)):
        for kind, modules in table.items():
            for module, names in modules.items():
                for name in names.split():
                    _add(found, module, name, Reading(kind, _written(module, name), direct))
    for kind_of_date in _dates():
        for name in ("now", "utcnow", "today"):
            told = Reading(CLOCK, f"{kind_of_date.__name__}.{name}()")
            if hasattr(kind_of_date, name):
                _add_value(found, getattr(kind_of_date, name), told)
    _add_value(found, random.Random.seed, Reading(RANDOM, "Random() without a seed"), _no_seed)
    told = Reading(GARBAGE, "gc.callbacks")
    for method in (gc.callbacks.append, gc.callbacks.insert, gc.callbacks.extend):
        found.builtins[method] = told
    found.objects[id(sys.argv)] = Reading(ENVIRONMENT, "sys.argv")
    for kind_of_reference in (
        weakref.ref, weakref.WeakSet, weakref.WeakValueDictionary, weakref.WeakKeyDictionary,
        weakref.finalize,
    ):  # fmt: skip
        name = f"weakref.{kind_of_reference.__name__}()"
        found.types[kind_of_reference] = Reading(GARBAGE, name)
    found.types[weakref.proxy] = Reading(GARBAGE, "weakref.proxy()")
    _add_frames(found)
    _add_numpy(found)
    return found


def _written(module: str, name: str) -> str:
    return "os.environ" if name.startswith("_Environ") else f"{module}.{name}()"


def _dates() -> Iterator[type[Any]]:
    pending: list[type[Any]] = [datetime.date]
    seen: set[type[Any]] = set()
    while pending:
        kind = pending.pop()
        if kind not in seen:
            seen.add(kind)
            yield kind
            pending += kind.__subclasses__()


def _no_seed(frame: FrameType) -> bool:
    return frame.f_locals.get("a") is None


def _add(found: Forbidden, module: str, name: str, told: Reading) -> None:
    value: Any = sys.modules.get(module)
    if value is None and module not in _ONLY_IF_LOADED:
        # Looked up whether or not an operator has imported it yet.
        with contextlib.suppress(ImportError):
            value = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part, None)
    if value is not None:
        _add_value(found, value, told)


def _add_value(
    found: Forbidden, value: Any, told: Reading, test: Callable[[FrameType], bool] | None = None
) -> None:
    value = getattr(value, "__func__", value)
    if isinstance(value, FunctionType):
        while hasattr(value, "__wrapped__"):
            value = value.__wrapped__
        found.codes[id(value.__code__)] = value.__code__, told, test
    elif isinstance(value, BuiltinFunctionType):
        found.builtins[value] = told


def _add_frames(found: Forbidden) -> None:
    """The functions of Polars that read files do it out of sight of the profiler."""
    polars = sys.modules.get("polars")
    for name in dir(polars) if polars is not None else ():
        if name.startswith(_READ_FILES):
            _add_value(found, getattr(polars, name), Reading(INPUT, f"polars.{name}()", True))


def _add_numpy(found: Forbidden) -> None:
    """numpy's global generator is compiled by Cython, whose calls no profiler sees."""
    if "numpy" not in sys.modules:
        return
    numpy_random: Any = importlib.import_module("numpy.random")  # numpy loads it when it is used
    for name in dir(numpy_random):
        value = getattr(numpy_random, name)
        if name in _SEEDED or name.startswith("_") or isinstance(value, type):
            continue
        owner = getattr(value, "__self__", None)
        if type(owner).__name__ == "RandomState" or name in ("seed", "ranf", "sample"):
            told = Reading(RANDOM, f"numpy.random.{name}()")
            found.hidden.append((numpy_random, name, value, told))
