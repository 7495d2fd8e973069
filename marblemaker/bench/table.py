"""What is shown of a bench: a table for people, and the same between the marks of a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from marblemaker.settings import SettingsError

__all__ = ["BEGIN", "END", "require_marks", "table", "write_between_marks"]

BEGIN: Final = "<!-- bench -->"
END: Final = "<!-- /bench -->"

_HEAD: Final = (
    "", "quotes", "loop", "files to results", "whole process", "requotes / orders / fills",
    "peak MB",
)  # fmt: skip
_SPEEDS: Final = ("loop", "files_to_results", "whole_process")


def table(document: dict[str, Any]) -> list[str]:
    """The lines of the table, Markdown that can be read as it is; what each does less follows."""
    peers = document["peers"].values()
    rows: list[Sequence[str]] = [_HEAD]
    rows += [_cells(number, peer) for number, peer in enumerate(peers, start=1)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(_HEAD))]
    lines = [_line(row, widths) for row in rows]
    rule = [("-" * width if k == 0 else "-" * (width - 1) + ":") for k, width in enumerate(widths)]
    lines.insert(1, _line(rule, widths))
    runs = document["runs"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    return [
        f"{document['quotes']:,} quotes, {', '.join(document['settings'])}; thousands of quotes a "
        f"second, minimum / median / maximum of {runs} run{'' if runs == 1 else 's'} by turns.",
        f"{document['machine']}; load at the start {document['load_at_start']}; {versions}.",
        "",
        *lines,
        "",
        *(_note(number, peer) for number, peer in enumerate(peers, start=1)),
        *([""] if document["ratios"] else []),
        *(f"- {what}: {ratio:,.2f}" for what, ratio in document["ratios"].items()),
        *([""] if document["problems"] else []),
        *(f"- NOT COMPARABLE: {problem}" for problem in document["problems"]),
    ]


def _cells(number: int, peer: dict[str, Any]) -> Sequence[str]:
    title = f"{number}. {peer['title']}"
    if peer["not_measured"]:
        why = peer["not_measured"]
        told = why if why.startswith("not installed") else "not measured, see below"
        return title, "", *[""] * 3, told, ""
    speeds = [_speed(peer["events_per_second"][name]) for name in _SPEEDS]
    counts = [peer[name] for name in ("requotes", "orders", "fills")]
    done = " / ".join("–" if count is None else f"{count:,}" for count in counts)
    quotes = f"{peer['quotes']:,}{', a part' if peer['part'] else ''}"
    return (
        f"{title} ({peer['version']})", quotes, *speeds, done,
        f"{peer['peak_memory_mb']['median']:,}",
    )  # fmt: skip


def _speed(spread: dict[str, int] | None) -> str:
    if spread is None:
        return "–"
    return " / ".join(f"{value / 1_000:,.0f}" for value in spread.values())


def _note(number: int, peer: dict[str, Any]) -> str:
    if peer["not_measured"]:
        return f"{number}. {peer['not_measured']}"
    told = [f"does less: {peer['less']}"]
    if peer.get("loop_is"):
        told.insert(0, f"loop: {peer['loop_is']}")
    told += [f"{value:,.0f} {name}" for name, value in peer.get("told", {}).items()]
    return f"{number}. {'; '.join(told)}."


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
    return f"| {' | '.join(padded)} |"


def require_marks(path: Path) -> None:
    """Refuse a page that a table cannot be written into.

    Errors: SettingsError unless it has each mark once, on lines of their own, in order.
    """
    _parts(path)


def write_between_marks(path: Path, lines: Sequence[str]) -> None:
    """Put lines in the place of what stands between a page's marks; the rest stays as it is.

    Errors: as of ``require_marks``.
    """
    before, after = _parts(path)
    end_of_line = "\r\n" if before[-1].endswith("\r\n") else "\n"
    body = [line + end_of_line for line in lines]
    with path.open("w", newline="", encoding="utf-8") as page:
        page.writelines([*before, *body, *after])


def _parts(path: Path) -> tuple[list[str], list[str]]:
    """The lines up to the first mark, and from the second on; with their own ends of line."""
    try:
        with path.open(newline="", encoding="utf-8") as page:
            lines = page.read().splitlines(keepends=True)
    except FileNotFoundError:
        raise SettingsError(f"--write {path}: there is no such file") from None
    marks = [(k, line.rstrip("\r\n")) for k, line in enumerate(lines)]
    marks = [(k, line) for k, line in marks if line in (BEGIN, END)]
    if [line for _, line in marks] != [BEGIN, END]:
        raise SettingsError(
            f"--write {path}: a page needs the lines {BEGIN} and {END}, each once and in this "
            f"order; the table goes between them"
        )
    (begin, _), (end, _) = marks
    return lines[: begin + 1], lines[end:]
