"""Logs of a live run: JSON lines with the graph's time and the wall's."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from marblemaker.wall import now_ns
from streams.instant import iso

__all__ = ["LogFile", "Rate", "live_log"]


class _Lines(logging.Formatter):
    def __init__(self, graph_ns: Callable[[], int]) -> None:
        super().__init__()
        self._graph_ns = graph_ns

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": iso(at) if (at := self._graph_ns()) else None,
            "wall": iso(now_ns()),
            "level": record.levelname.lower(),
            "from": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class LogFile(logging.Handler):
    """Writes a JSON document a line; until it is opened, lines wait."""

    def __init__(self, graph_ns: Callable[[], int]) -> None:
        """``graph_ns`` tells the graph's time, 0 before there is a graph."""
        super().__init__()
        self.setFormatter(_Lines(graph_ns))
        self._waiting: list[str] = []
        self._stream: TextIO | None = None

    def open(self, path: Path) -> None:
        """Begin to write to ``path``."""
        self._stream = path.open("a", encoding="utf-8")
        for line in self._waiting:
            self._write(line)
        self._waiting.clear()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; a disk that is full must not stop the run, the recorder tells it."""
        line = self.format(record)
        if self._stream is None:
            self._waiting.append(line)
        else:
            self._write(line)

    def _write(self, line: str) -> None:
        assert self._stream is not None
        with suppress(OSError):
            self._stream.write(line + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Let go of the file."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()
        super().close()


@contextmanager
def live_log(graph_ns: Callable[[], int]) -> Iterator[LogFile]:
    """Collect what the loggers of ``marblemaker`` say; ``open`` the file once there is a folder."""
    handler = LogFile(graph_ns)
    logger = logging.getLogger("marblemaker")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


class Rate:
    """Events a second, over the last five."""

    def __init__(self) -> None:
        """Start with none."""
        self._counts: deque[tuple[int, int]] = deque()

    def count(self, n: int) -> None:
        """Count ``n`` events now."""
        second = now_ns() // 10**9
        if self._counts and self._counts[-1][0] == second:
            self._counts[-1] = (second, self._counts[-1][1] + n)
        else:
            self._counts.append((second, n))
        while len(self._counts) > 6:
            self._counts.popleft()

    def per_second(self, now_ns: int) -> float:
        """Average of the last five whole seconds."""
        second = now_ns // 10**9
        return sum(n for at, n in self._counts if second - 5 <= at < second) / 5.0
