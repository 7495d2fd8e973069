"""Work: one combination replayed, in whatever process; and the process that does so one by one.

A worker reads tasks from its standard input, JSON by line, and answers each with one line. It ends
when that input ends, also in the middle of a replay: so no worker outlives its parent.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, Literal

import msgspec
from msgspec import Struct

from marblemaker.settings import Settings, SettingsError, as_used
from marblemaker.sweep.scratch import scratch_folder
from streams.recording import FILES, Manifest, RecordingError, read_manifest

__all__ = [
    "ACTIONS", "Engine", "ErrorKind", "SweepError", "Task", "compute", "identity", "replay_of",
    "used",
]  # fmt: skip

Engine = Literal["rx", "compiled"]
ErrorKind = Literal["settings", "replay", "lost"]
"""``settings`` contradict themselves, the ``replay`` failed: both would again. ``lost``: a worker
died or its machine failed; a resumed sweep tries again."""

ACTIONS: Final = ("quote", "withdraw", "retract", "refuse", "hold")
HORIZONS: Final = ("1s", "5s", "30s", "60s")
_AMOUNTS: Final = {
    "pnl": "pnl", "realised": "realised", "unrealised": "unrealised", "fees": "fees",
    "bought": "bought", "sold": "sold", "inventory_max_long": "max_long",
    "inventory_max_short": "max_short", "inventory_end": "position",
}  # fmt: skip
_ONE_AT_A_TIME: Final = threading.Lock()
_COLLECT_SECONDS: Final = 5.0
_collected = 0.0


class SweepError(RuntimeError):
    """A sweep cannot go on."""


class Task(Struct, frozen=True, kw_only=True):
    """One replay: a recording under settings."""

    recording: str
    """The folder, absolute."""
    sha: str
    """What ``identity`` says of the recording."""
    settings: str
    """All settings, as JSON."""
    digest: str
    """What ``used`` says of the settings."""
    engine: Engine = "compiled"

    @property
    def key(self) -> tuple[str, str]:
        """What the result depends on; the engine is not part of it."""
        return self.digest, self.sha


def identity(manifest: Manifest) -> str:
    """What makes a recording this one: its instruments and the content of its files, sha256."""
    inputs = {
        name: entry.sha256
        for name, entry in sorted(manifest.files.items())
        if name in FILES and name != "account"  # the answers are the simulated venue's
    }
    whole = [inputs, msgspec.to_builtins(manifest.instruments)]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def used(settings: Settings) -> str:
    """A digest of all settings with the preset's own values put in, sha256."""
    return hashlib.sha256(json.dumps(as_used(settings), sort_keys=True).encode()).hexdigest()


def compute(task: dict[str, Any]) -> dict[str, Any]:
    """Replay one task against the simulated venue; give the values of its row.

    Never raises for what a combination can do wrong: the row has ``error`` and ``error_kind`` then.
    """
    # Replays of one process follow each other: they share the collector and the timers' guard.
    with _ONE_AT_A_TIME:
        started = time.perf_counter()
        row = _replayed(msgspec.convert(task, Task))
        row["seconds"] = round(time.perf_counter() - started, 3)
        _collect_now_and_then()
        return row


def _collect_now_and_then() -> None:
    """Free graphs that are done with: a replay puts the collector off, and they hold cycles.

    Not after each replay: a collection looks at all there is, which takes as long as a short one.
    """
    global _collected
    now = time.perf_counter()
    if now - _collected > _COLLECT_SECONDS:
        gc.collect()
        _collected = now


def _replayed(task: Task) -> dict[str, Any]:
    folder = Path(task.recording)
    try:
        settings = msgspec.json.decode(task.settings, type=Settings)
        if used(settings) != task.digest:
            raise RecordingError("this worker reads the settings otherwise: another version of us")
        if identity(read_manifest(folder)) != task.sha:
            raise RecordingError(f"{folder} is not the recording that the sweep began with")
        with scratch_folder(folder) as scratch:
            summary = replay_of(task.engine)(
                folder, settings, scratch / "run", venue="simulated", bounds=True, trace=False
            )
        return _row(summary)
    except SettingsError as error:
        return failed("settings", str(error))
    except (MemoryError, OSError) as error:
        return failed("lost", f"{type(error).__name__}: {error}")
    except Exception as error:  # a failing combination is a row; the sweep goes on
        # A full disk, say, is told as a RecordingError, but would not fail again elsewhere.
        machine = isinstance(error.__cause__, OSError)
        told = str(error) if isinstance(error, RecordingError) else f"{error!r}"
        return failed("lost" if machine else "replay", told)


def replay_of(engine: Engine) -> Callable[..., dict[str, Any]]:
    """The replay of an engine; loaded when it is asked for."""
    if engine == "compiled":
        from marblemaker.compiled.engine import replay_compiled

        return partial(replay_compiled, inputs=False, threads=False)
    from marblemaker.replay import replay

    return replay


def failed(kind: ErrorKind, message: str) -> dict[str, Any]:
    """The values of a row without results."""
    return {"error": message, "error_kind": kind}


def _row(summary: dict[str, Any]) -> dict[str, Any]:
    bounds, budget = summary["bounds"], summary["budget"] or {}
    return {
        "fill_model": summary["fill_model"],
        **{f"pnl_{name}": _number(one["pnl"]) for name, one in bounds.items()},
        **{name: _number(summary[told]) for name, told in _AMOUNTS.items()},
        "fills": summary["fills"]["total"],
        "orders": summary["orders"]["total"],
        **{
            f"markout_{horizon}_bps": summary["markouts"].get(horizon, {}).get("bps")
            for horizon in HORIZONS
        },
        "quota_spent": budget.get("quota_spent"),
        "quota_left": budget.get("quota_left"),
        **{f"decisions_{action}": summary["decisions"].get(action, 0) for action in ACTIONS},
        "digest": summary["digest"],
    }


def _number(amount: str) -> float:
    """The nearest double: exact to all nine decimals up to nine million."""
    return float(Decimal(amount))


# ---------------------------------------------------------------- the worker's process


def _main() -> None:
    # The parent is who is interrupted; it ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever is printed on the way must not stand between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, tasks), daemon=True).start()
    import marblemaker.replay  # noqa: F401 - what takes long, before the first task

    _say(answers, {"ready": os.getpid()})
    while True:
        _say(answers, compute(json.loads(tasks.get())))


def _listen(source: IO[str], tasks: queue.SimpleQueue[str]) -> None:
    from marblemaker.sweep.scratch import leave

    for line in source:
        tasks.put(line)
    leave()
    os._exit(0)  # at once: the main thread may be deep in a replay that nobody waits for


def _say(answers: IO[str], document: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        answers.write(json.dumps(document) + "\n")
        answers.flush()


if __name__ == "__main__":
    _main()
