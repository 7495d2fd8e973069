"""Strict: a run in which nothing on the path of a decision may read what a replay cannot repeat."""

from __future__ import annotations

import gc
import os
import site
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, Final

from msgspec import Struct

from marblemaker import checked_code, forbidden, set_order
from marblemaker.forbidden import WAY_OUT, Forbidden, Reading

__all__ = ["Finding", "StrictError", "strict"]

_ROOT: Final = Path(__file__).resolve().parent.parent
_ROOMS: Final = tuple(f"{_ROOT / room}{os.sep}" for room in ("streams", "operators", "sinks"))
# Around the path, not on it: they read recordings, write runs and tell the user how far it is.
_AROUND: Final = (
    f"{_ROOT / 'marblemaker'}{os.sep}",
    *(
        str(_ROOT / name)
        for name in (
            "sinks/journal.py", "sinks/recorder.py", "streams/recording.py", "streams/databento.py",
            "streams/lighter.py", "streams/feed.py", "sinks/lighter",
        )
    ),
)  # fmt: skip
_OWN: Final = frozenset({__file__, checked_code.__file__, set_order.__file__, forbidden.__file__})
_LIBRARIES: Final = tuple(
    {
        spelled.rstrip(os.sep) + os.sep
        for folder in (
            *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
            *site.getsitepackages(),
            site.getusersitepackages(),
        )
        for spelled in (folder, os.path.realpath(folder))
    }
)
# What these read is for messages, imports and finalizers: no value comes back to who called.
_SPEAKING: Final = frozenset(
    {"importlib", "logging", "warnings", "linecache", "traceback", "tokenize", "weakref"}
)
_INTERACTIVE: Final = ("<stdin", "<doctest", "<ipython", "<cell")

# reactivex's queue of the current thread asks for the time and the thread whenever it runs what is
# due at once; that shows in nothing, and a real wait is found as such.
_TRAMPOLINE: Final = frozenset(
    {
        "Trampoline._run", "TrampolineScheduler.schedule", "TrampolineScheduler.schedule_absolute",
    }
)  # fmt: skip


class Finding(Struct, frozen=True):
    """One forbidden reading on the path of a decision."""

    kind: str
    """The wall clock, the order of a set …: a key of ``marblemaker.forbidden.WAY_OUT``."""
    what: str
    """What was read: ``time.time()``."""
    file: str
    line: int
    function: str
    """Where the code on the path stands that read it, or called a library that did."""


class StrictError(RuntimeError):
    """A decision would depend on something that a replay cannot repeat."""

    def __init__(self, finding: Finding) -> None:
        """Say what was read, where, and what to do instead."""
        self.finding = finding
        kind = "" if finding.kind == forbidden.ORDER else f" ({finding.kind})"
        super().__init__(
            f"{finding.file}:{finding.line}: {finding.function} depends on {finding.what}{kind}; "
            f"another run of the same inputs need not see the same. Instead, "
            f"{WAY_OUT[finding.kind]}"
        )


@contextmanager
def strict(
    *, exempt: Sequence[Callable[..., Any]] = (), packages: Sequence[str] = ()
) -> Iterator[None]:
    """Raise where code on the path of a decision reads what a replay cannot repeat.

    Put it around the building *and* the running of a graph, on the thread of the graph. Refused are
    the wall clock, unseeded random numbers, the environment, files and sockets, threads, ``id`` and
    hashes that differ between processes, the garbage collector, and the order of a set.

    On the path is all code that is not in the standard library or an installed package, and what
    it calls there; of this project ``streams``, ``operators`` and ``sinks``, without what reads
    recordings and writes runs. ``packages`` names installed packages that are on the path as well.
    ``exempt`` are functions that are called now and then but not for a decision: progress.

    Errors: StrictError where it is read, and again at the end if that one was swallowed;
        RuntimeError if strict is on already.
    """
    watched = _Strict(exempt, packages)
    watched.start()
    try:
        yield
    except Exception as error:
        watched.stop()
        if watched.first is not None and watched.first is not error:
            raise watched.first from error
        raise
    finally:
        watched.stop()
    if watched.first is not None:
        raise watched.first


_on: _Strict | None = None


class _Strict:
    def __init__(self, exempt: Sequence[Callable[..., Any]], packages: Sequence[str]) -> None:
        self.first: StrictError | None = None
        self._exempt = {_place(_code_of(one)) for one in (*exempt, *gc.callbacks)} - {None}
        self._packages = tuple(_folder_of(name) for name in packages)
        self._kinds: dict[str, str] = {}
        self._replaced: list[tuple[dict[str, Any], str, Any]] = []
        self._plain: dict[int, tuple[CodeType, CodeType]] = {}

    # ------------------------------------------------------------ on and off

    def start(self) -> None:
        global _on
        if _on is not None:
            raise RuntimeError("strict() is on already, and one at a time is all there can be")
        self._found = forbidden.forbidden()
        self._replace_hidden(self._found)
        self._check_code()
        set_order.watching(
            set_order.Watch(self.report, self._found, threading.get_ident(), self._on_path)
        )
        self._before = sys.getprofile()
        _on = self
        self.arm()

    def arm(self) -> None:
        """Look for the first finding; raising one ends the looking."""
        self.first = None
        sys.setprofile(self._profiler(self._found))

    def stop(self) -> None:
        global _on
        if _on is not self:
            return
        sys.setprofile(self._before)
        _on = None
        set_order.watching(None)
        for names, name, value in reversed(self._replaced):
            names[name] = value
        for function in checked_code.functions():
            pair = self._plain.get(id(function.__code__))
            if pair is not None:
                function.__code__ = pair[0]

    def _profiler(self, found: Forbidden) -> Callable[[FrameType, str, Any], None]:
        functions, codes = found.builtins, found.codes

        def profile(frame: FrameType, event: str, arg: Any) -> None:
            if event == "call":
                hit = codes.get(id(frame.f_code))
                if hit is not None and (hit[2] is None or hit[2](frame)):
                    self._report_from(frame.f_back, hit[1])
            elif event == "c_call":
                told = functions.get(arg)
                if told is not None:
                    self._report_from(frame, told)

        return profile

    def _replace_hidden(self, found: Forbidden) -> None:
        """Put what no profiler sees behind functions that tell, wherever the path has it."""
        telling = {}
        for owner, name, value, told in found.hidden:
            telling[id(value)] = set_order.telling(value, told)
            self._replaced.append((vars(owner), name, value))
        hidden = {id(value): value for _, _, value, _ in found.hidden}
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if hidden and file is not None and self._on_path(file):
                self._replaced += [
                    (vars(module), name, value)
                    for name, value in vars(module).items()
                    if id(value) in hidden
                ]
        for names, name, value in self._replaced:
            names[name] = telling[id(value)]

    def _check_code(self) -> None:
        """Give the functions on the path code that looks at what it does with sets."""
        rewritten: dict[str, dict[Any, CodeType]] = {}
        for module in list(sys.modules.values()):
            loader = type(getattr(module, "__loader__", None)).__module__
            file = getattr(module, "__file__", None)
            if loader.startswith("_pytest") and file is not None and self._on_path(file):
                # Its asserts are not those of the source, so the code is found by its place.
                pairs = checked_code.checked_code(file)
                rewritten[file] = {_place(old): new for old, new in pairs.items()}
        checked: dict[str, dict[CodeType, CodeType]] = {}
        for function in checked_code.functions():
            old = function.__code__
            file = old.co_filename
            if not self._on_path(file):
                continue
            if file not in checked:
                checked[file] = checked_code.checked_code(file)
            new = checked[file].get(old)
            if new is None and file in rewritten:
                new = rewritten[file].get(_place(old))
            if new is not None and new.co_freevars == old.co_freevars:
                function.__code__ = new
                self._remember(old, new)

    def _remember(self, old: CodeType, new: CodeType) -> None:
        """Keep what to put back, for functions inside this one too: they may be made meanwhile."""
        if id(new) in self._plain:
            return
        self._plain[id(new)] = old, new
        inside = [[c for c in code.co_consts if isinstance(c, CodeType)] for code in (old, new)]
        if len(inside[0]) == len(inside[1]):
            for one, other in zip(*inside, strict=True):
                self._remember(one, other)

    # ------------------------------------------------------------ on a hit

    def report(self, told: Reading) -> None:
        """Raise if this was read on the path."""
        self._report_at(sys._getframe(1), told)

    def _report_from(self, frame: FrameType | None, told: Reading) -> None:
        """As ``report``, of what ``frame`` calls; our own code may call anything."""
        if frame is not None and frame.f_code.co_filename not in _OWN:
            self._report_at(frame, told)

    def _report_at(self, frame: FrameType, told: Reading) -> None:
        blamed = self._blamed(frame, told)
        if blamed is None:
            return
        code = blamed.f_code
        error = StrictError(
            Finding(told.kind, told.what, code.co_filename, blamed.f_lineno, code.co_qualname)
        )
        if self.first is None:
            self.first = error
        raise error

    def _blamed(self, frame: FrameType, told: Reading) -> FrameType | None:
        """The nearest frame on the path; ``None`` if what was read is for something else."""
        blamed, at = None, frame
        while at is not None:
            code, kind = at.f_code, self._kind(at.f_code.co_filename)
            if _place(code) in self._exempt or code is set_order.seeded.__code__:
                return None
            if blamed is None and kind != "own":
                if kind == "path":
                    blamed = at
                elif kind != "library" or told.direct or _is_harmless(code, told):
                    return None
            at = at.f_back  # type: ignore[assignment]
        return blamed

    def _on_path(self, file: str) -> bool:
        return self._kind(file) == "path"

    def _kind(self, file: str) -> str:
        """path, library, around (us, not deciding), own (this), speaking (messages, imports)."""
        kind = self._kinds.get(file)
        if kind is None:
            kind = self._kinds[file] = _kind_of(file, self._packages)
        return kind


def _kind_of(file: str, packages: tuple[str, ...]) -> str:
    if file in _OWN:
        return "own"
    if file.startswith("<"):
        if file.startswith("<frozen importlib"):
            return "speaking"
        return "path" if file.startswith(_INTERACTIVE) else "library"
    if file.startswith(_AROUND):
        return "around"
    if file.startswith(_ROOMS) or (packages and file.startswith(packages)):
        return "path"
    for folder in _LIBRARIES:
        if file.startswith(folder):
            inside = file.removeprefix(folder).split(os.sep)[0].removesuffix(".py")
            if "site-packages" not in file.removeprefix(folder) and inside in _SPEAKING:
                return "speaking"
            return "library"
    return "path"


def _is_harmless(library: CodeType, told: Reading) -> bool:
    if told.kind == forbidden.CLOCK and library.co_qualname in _TRAMPOLINE:
        return True
    return library.co_name == "__del__"  # called whenever, and not by what happens to run


def _code_of(function: Any) -> CodeType | None:
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType):
        function = type(function).__dict__.get("__call__")
    return getattr(function, "__code__", None)


def _place(code: CodeType | None) -> tuple[str, str, int] | None:
    """Where a function stands; its checked code stands there too."""
    return None if code is None else (code.co_filename, code.co_qualname, code.co_firstlineno)


def _folder_of(package: str) -> str:
    module = sys.modules.get(package)
    file: str | None = getattr(module, "__file__", None)
    if file is None:
        raise ValueError(f"{package!r} is no package that has been imported; import it first")
    folder = os.path.dirname(file)
    return folder + os.sep if os.path.basename(file) == "__init__.py" else file
