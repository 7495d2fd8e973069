"""Local: worker processes of this machine, each computing one task after the other."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from marblemaker.sweep.scratch import clean_up
from marblemaker.sweep.work import SweepError, Task, failed

__all__ = ["run_local"]

Take = Callable[[Task, dict[str, Any]], None]

_TRIES: Final = 2
_FALSE_STARTS: Final = 3
_PATIENCE_SECONDS: Final = 5.0
_ROOT: Final = Path(__file__).resolve().parents[2]


def run_local(tasks: Iterator[Task], jobs: int, take: Take) -> None:
    """Compute all tasks in ``jobs`` processes; ``take(task, row)`` is given each that is done.

    A worker that dies is replaced, and its task tried once more; then it is a row with an error.

    Errors: SweepError if workers cannot start at all.
    """
    waiting: deque[tuple[Task, int]] = deque()
    workers: list[_Worker] = []
    false_starts = 0

    def give(worker: _Worker) -> bool:
        """The next task, if there is one."""
        if waiting:
            worker.start(*waiting.popleft())
            return True
        task = next(tasks, None)
        if task is not None:
            worker.start(task, 1)
        return task is not None

    try:
        with selectors.DefaultSelector() as pipes:

            def hire() -> None:
                worker = _Worker()
                workers.append(worker)
                pipes.register(worker.answers, selectors.EVENT_READ, worker)

            for _ in range(jobs):
                hire()
            while pipes.get_map():
                for ready, _events in pipes.select():
                    worker: _Worker = ready.data
                    answer = worker.read()
                    if answer is not None:
                        if worker.task is not None:
                            take(worker.task, answer)
                        false_starts = 0
                        if not give(worker):
                            # It ends by itself; nobody waits for it before the end.
                            pipes.unregister(worker.answers)
                            worker.stop()
                        continue
                    if worker.said_half:
                        continue
                    pipes.unregister(worker.answers)
                    workers.remove(worker)
                    ended = worker.bury()
                    if worker.task is not None:
                        if worker.tries < _TRIES:
                            waiting.append((worker.task, worker.tries + 1))
                        else:
                            told = f"{_TRIES} workers died computing this; the last {ended}"
                            take(worker.task, failed("lost", told))
                    else:
                        false_starts += 1
                        if false_starts >= _FALSE_STARTS or not worker.by_signal:
                            raise SweepError(f"a worker did not start: it {ended}")
                    hire()
    finally:
        _dismiss(workers)
        clean_up()


class _Worker:
    """One process, and what it is doing."""

    def __init__(self) -> None:
        paths = [str(_ROOT), *(os.path.abspath(one) for one in sys.path if os.path.isdir(one))]
        environment = {
            **os.environ,
            # A core each: more threads would only stand in each other's way.
            "POLARS_MAX_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        }
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is buried
        # A process group of its own: an interrupt at the terminal is for the parent.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "marblemaker.sweep.work"],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
            process_group=0,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.answers = self._process.stdout
        self._half = b""
        self.task: Task | None = None
        self.tries = 0

    @property
    def said_half(self) -> bool:
        """True while an answer is not there whole."""
        return bool(self._half)

    @property
    def by_signal(self) -> bool:
        """True if it was killed, and did not end itself."""
        return (self._process.returncode or 0) < 0

    def start(self, task: Task, tries: int) -> None:
        """Give it a task."""
        self.task, self.tries = task, tries
        assert self._process.stdin is not None
        # If it has just died its answers end, and that is where it is noticed.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(task) + b"\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """Let it end: there is nothing more."""
        self.task = None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def read(self) -> dict[str, Any] | None:
        """Its answer, or None: not whole yet (``said_half``), or it is dead."""
        data = os.read(self.answers.fileno(), 1 << 16)
        if not data:
            self._half = b""
            return None
        self._half += data
        if not self._half.endswith(b"\n"):
            return None
        line, self._half = self._half, b""
        answer: dict[str, Any] = json.loads(line)
        return answer

    def bury(self) -> str:
        """Wait for its end, and tell how it came."""
        code = self._process.wait()
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip()[-500:]
        self._close()
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            return f"{how}; if that was for want of memory, take fewer --jobs"
        return f"ended with exit code {code} and said: {said or 'nothing'}"

    def end(self, patience: float) -> None:
        """Make sure that it is gone."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _dismiss(workers: list[_Worker]) -> None:
    """End all: their input ends, they clean up and leave."""
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.end(_PATIENCE_SECONDS)
