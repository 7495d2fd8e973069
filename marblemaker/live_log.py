"""Logs of a live run: JSON lines with the graph's time and the wall's."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from marblemaker.wall import now_ns
from streams.instant import iso

__all__ = ["Rate", "live_log"]


class _Lines(logging.Formatter):
    def __init__(self, graph_ns: Callable[[], int]) -> None:
        super().__init__()
        self._graph_ns = graph_ns

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": iso(self._graph_ns()),
            "wall": iso(now_ns()),
            "level": record.levelname.lower(),
            "from": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


@contextmanager
def live_log(path: Path, graph_ns: Callable[[], int]) -> Iterator[None]:
    """Write what the loggers of ``marblemaker`` say to ``path``, a JSON document a line."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Lines(graph_ns))
    logger = logging.getLogger("marblemaker")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
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
