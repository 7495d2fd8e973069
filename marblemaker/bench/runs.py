"""One run of a peer, or of our own command, in a process of its own and timed from outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from marblemaker.bench.job import NOT_HERE, NotHereError, Ran
from marblemaker.versions import versions

__all__ = ["IN_ALL", "LOOP", "PEAK", "PROCESS", "child_run", "replayed"]

LOOP: Final = "loop"
IN_ALL: Final = "in_all"
PROCESS: Final = "process"
"""Steps that a run is timed by: its loop, from files to results, and the whole process."""
PEAK: Final = "peak_mb"
"""Among what is told of a run: the peak of its memory, MB."""


def replayed(recording: Path, out: Path, settings: Sequence[str], more: Sequence[str]) -> Ran:
    """Replay a recording by our own command, as a user does; ``more`` are further arguments.

    Errors: OSError if it failed, with its last word.
    """
    sets = [argument for text in settings for argument in ("--set", text)]
    arguments = ["marblemaker.cli", "replay", str(recording), "--out", str(out), "--json"]
    seconds, peak, output = _process([*arguments, *more, *sets])
    shutil.rmtree(out)
    summary = json.loads(output)
    inputs = summary["inputs"]
    return Ran(
        quotes=inputs["signal"] + inputs["target"],
        requotes=summary["decisions"].get("quote", 0),
        orders=summary["orders"]["total"],
        fills=summary["fills"]["total"],
        version=versions()["marblemaker"],
        seconds={
            LOOP: summary["seconds_in_graph"], IN_ALL: summary["seconds"], PROCESS: seconds
        },
        told={PEAK: peak},
    )  # fmt: skip


def child_run(
    module: str, step: str, recording: Path, folder: Path, settings: Sequence[str]
) -> Ran:
    """Have a peer's ``step`` done in a process of its own.

    Errors: NotHereError if the peer cannot run here, with the reason; OSError if it failed, with
        its last word.
    """
    with tempfile.NamedTemporaryFile(prefix="marble-bench-", suffix=".json") as answer:
        seconds, peak, _ = _process(
            ["marblemaker.bench.child", module, step, str(recording), str(folder), answer.name,
             *settings]
        )  # fmt: skip
        text = Path(answer.name).read_bytes()
    document = msgspec.json.decode(text)
    if "not_here" in document:
        raise NotHereError(document["not_here"])
    ran = msgspec.convert(document, Ran)
    ran.seconds[PROCESS], ran.told[PEAK] = seconds, peak
    return ran


def _process(arguments: Sequence[str]) -> tuple[float, float, bytes]:
    """Run a module in a process of its own: seconds, peak memory in MB, and what it printed.

    Errors: OSError with the last line that it complained with.
    """
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as complained:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdout=printed, stderr=complained
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        complained.seek(0)
        if process.returncode not in (0, NOT_HERE):
            lines = complained.read().decode(errors="replace").strip().splitlines()
            raise OSError(f"{lines[-1] if lines else 'no word'} (exit code {process.returncode})")
        # ru_maxrss is KiB on Linux, bytes on macOS.
        peak = usage.ru_maxrss / (1_000 if sys.platform != "darwin" else 1_000_000)
        return seconds, peak, printed.read()
