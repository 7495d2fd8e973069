"""Tables: what a report tells in words and numbers, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from marblemaker.report.cards import span
from marblemaker.report.data import ReportData
from streams.instant import iso
from streams.instrument import format_units

__all__ = ["head", "mode_text", "tables"]

_MODES: Final = {
    "live": "orders went to the venue",
    "paper": "live feeds, simulated venue: no order was sent",
    "dry": "live feeds, nothing was sent: orders are what would have been sent",
    "replay": "a recording run through the graph",
    "record": "feeds were recorded, nothing was decided",
    "import": "an imported recording: nothing was decided",
    "synthetic": "a generated recording: nothing was decided",
}
_LISTED_FILLS: Final = 500
_CLAIMS: Final = (
    "Three claims, kept apart. Decisions: that they follow from the inputs can be proved (marble "
    "prove). Fills: {fills}. Profit: none is claimed."
)


def mode_text(mode: str) -> str:
    """What a mode means for the reader of the page."""
    return _MODES.get(mode, "")


def head(data: ReportData) -> str:
    """The summary at the top: tiles, warnings, what is claimed, settings other than default."""
    parts = [_tiles(data)]
    parts += [f'<p class="warning">{escape(text)}</p>' for text in _warnings(data)]
    if data.traded is not None:
        of_model = "these are of the fill model, which is bounded and no promise"
        fills = "these are the venue's own" if data.manifest.mode == "live" else of_model
        parts.append(f'<p class="notice">{escape(_CLAIMS.format(fills=fills))}</p>')
    parts += [f'<p class="notice">{escape(text)}</p>' for text in _sampled(data)]
    return "\n".join(parts)


def tables(data: ReportData) -> str:
    """Everything below the charts."""
    pairs = [
        _markouts(data), _bounds(data), _time_in_market(data), _budget(data),
        _latency(data), _old_signals(data), _quality(data), _changed(data), _anomalies(data),
    ]  # fmt: skip
    return (
        f'<div class="pair">{"".join(part for part in pairs if part)}</div>{_fills(data)}'
        f"{_about(data)}"
    )


# ---------------------------------------------------------------- the head


def _tiles(data: ReportData) -> str:
    s, m = data.settings, data.summary
    tiles: list[tuple[str, str, str]] = []
    if s is not None and data.decided is not None:
        size, most = format_units(s.trade_size), format_units(s.max_position)
        tiles.append(("preset", s.strategy.preset, f"{size} a side, at most {most}"))
    files = data.manifest.files
    quotes = " + ".join(f"{files[name].rows:,}" for name in data.names)
    tiles.append(("quotes in", quotes, " + ".join(data.names.values())))
    decisions = _counts(m.get("decisions"))
    if decisions:
        tiles.append(("decisions", decisions, ""))
    orders = m.get("orders")
    if isinstance(orders, dict) and orders:
        total = orders.get("total", sum(orders.values()))
        rest = {name.lower(): n for name, n in orders.items() if name != "total"}
        tiles.append(("orders", f"{total:,}", _counts(rest)))
    if data.traded is not None:
        money = data.traded.money
        told = f"bought {money['bought']}, sold {money['sold']}"
        tiles.append(("fills", f"{data.traded.total:,}", told))
        told = f"between {money['max_short']} and {money['max_long']}"
        tiles.append(("position at the end", money["position"], told))
        told = f"realised {money['realised']}, unrealised {money['unrealised']}"
        told += f" at {money['mark']}" if money["mark"] else ""
        tiles.append(
            (_profit_of(data), money["pnl"], f"{told}; after fees of {money['fees']}")
        )  # fmt: skip
    if m.get("digest"):
        tiles.append(("digest of decisions and orders", f"{m['digest'][:16]}…", ""))
    body = "".join(
        f'<div class="tile"><b>{escape(name)}</b><span>{escape(value)}</span>'
        f"{f'<small>{escape(more)}</small>' if more else ''}</div>"
        for name, value, more in tiles
    )
    return f'<div class="tiles">{body}</div>'


def _profit_of(data: ReportData) -> str:
    if data.manifest.mode == "live":
        return "P&L by fills"
    model = data.summary.get("fill_model") or (
        None if data.settings is None else data.settings.venue.fill_model
    )
    recorded = data.summary.get("venue") == "recorded"
    return "P&L of recorded fills" if recorded else f"P&L of fill model “{model}”"


def _counts(counts: Any) -> str:
    if not isinstance(counts, dict):
        return ""
    return ", ".join(f"{n:,} {name}" for name, n in counts.items())


def _warnings(data: ReportData) -> Iterable[str]:
    if data.manifest.ended != "complete":
        yield f"The run did not end as it should: {data.manifest.ended}"
    left = data.summary.get("left_working")
    if left:
        yield f"Orders not confirmed as gone at the end: {', '.join(map(str, left))}"


def _sampled(data: ReportData) -> Iterable[str]:
    if data.decided is not None and data.decided.shown.height < data.decided.changes:
        yield (
            f"Of {data.decided.changes:,} changes of our quotes {data.decided.shown.height:,} are "
            f"shown: of each short stretch the first, the last, the extremes and the first "
            f"withdrawal, and others evenly. What is counted, is counted over all."
        )
    if data.traded is not None and data.traded.fills.height < data.traded.total:
        yield f"Of {data.traded.total:,} fills {data.traded.fills.height:,} are shown."
    rows = sum(data.manifest.files[name].rows for name in data.names)
    if rows > data.grid.keep:
        yield (
            f"Lines of more than {data.grid.keep:,} points are drawn from the first, last, lowest "
            f"and highest of each of {data.grid.buckets:,} equal parts of the run, so every "
            f"spike is there; between them points are left out."
        )


# ---------------------------------------------------------------- the tables


def _table(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    note: str = "",
    raw: frozenset[int] = frozenset(),
    texts: frozenset[int] = frozenset(),
) -> str:
    """``raw``: columns that are HTML already; ``texts``: columns of words."""

    def cells(tag: str, row: Sequence[str], keep: frozenset[int]) -> str:
        words = ' class="text"'
        return "".join(
            f"<{tag}{words if i in texts else ''}>{value if i in keep else escape(value)}</{tag}>"
            for i, value in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row, raw)}</tr>" for row in rows)
    caption = f'<p class="caption">{escape(note)}</p>' if note else ""
    return (
        f'<div class="table"><h2>{escape(title)}</h2>{caption}<div class="scroll"><table>'
        f"<thead><tr>{cells('th', header, frozenset())}</tr></thead><tbody>{body}</tbody></table>"
        f"</div></div>"
    )


def _markouts(data: ReportData) -> str:
    if data.traded is None:
        return ""
    title = "Markouts"
    if not data.traded.markouts:
        return _nothing(title, "No maker fills in this run.")
    note = "Where the target's mid went after our maker fills, by size; positive is good for us."
    found = data.traded.markouts.items()
    most = max((abs(one["bps"]) for _, one in found if one["bps"] is not None), default=0.0)
    rows = [
        (horizon, f"{one['fills']:,}", "—" if one["bps"] is None else f"{one['bps']:+.2f}",
         _meter(one["bps"], most))
        for horizon, one in found
    ]  # fmt: skip
    header = ("after", "fills", "bps", "")
    return _table(title, header, rows, note=note, raw=frozenset({3}), texts=frozenset({3}))


def _meter(value: float | None, most: float) -> str:
    if value is None or not most:
        return ""
    minus = " minus" if value < 0 else ""
    return f'<span class="meter{minus}" style="width:{max(1, round(120 * abs(value) / most))}px">'


def _bounds(data: ReportData) -> str:
    bounds = data.summary.get("bounds")
    if not bounds:
        return ""
    rows = [
        (f"{name} ({one['fill_model']})", f"{one['fills']:,}", one["position"], one["pnl"])
        for name, one in bounds.items()
    ]
    header = ("fill model", "fills", "position", "P&L")
    return _table("The same orders under each fill model", header, rows)


def _time_in_market(data: ReportData) -> str:
    if data.decided is None:
        return ""
    rows = [
        (row["lane"], f"{row['times']:,}", f"{row['seconds']:,.3f}", f"{row['share']:.2%}")
        for row in data.decided.lanes.iter_rows(named=True)
    ]
    note = "Held-back targets count beside what stands meanwhile."
    return _table(
        "Time in the market, and why not", ("", "times", "seconds", "of the run"), rows, note=note
    )


def _budget(data: ReportData) -> str:
    rows: list[tuple[str, str]] = []
    if data.requests is not None:
        rows.append(("requests", f"{data.requests.total:,}"))
        rows.append(("busiest minute", f"{data.requests.busiest:,}"))
    if data.limits is not None and data.limits.transactions_per_minute is not None:
        rows.append(("allowed in a minute", f"{data.limits.transactions_per_minute:,}"))
    told = data.summary.get("budget") or {}
    for key in ("transactions", "busiest_minute", "volume_quota", "quota_spent", "quota_earned",
                "quota_left", "quota_lowest", "quota_exhausted_at"):  # fmt: skip
        value = told.get(key)
        if value is not None and not (data.requests is not None and key in _COUNTED):
            text = f"{value:,}" if isinstance(value, int) else str(value)
            rows.append((key.replace("_", " "), text))
    if not rows:
        return ""
    shared = data.manifest.sources.get("account", {}).get("shared_with")
    note = ""
    if shared:
        note = f"The account is shared with {', '.join(shared)}; requests are this market's alone."
    return _table("Budget", ("", ""), rows, note=note)


_COUNTED: Final = ("transactions", "busiest_minute")


def _latency(data: ReportData) -> str:
    rows: list[tuple[str, ...]] = []
    for name, feed in data.feeds.feeds.items():
        if feed.latency is not None:
            rows.append((data.names[name], *_spread(feed.latency.table)))
    if data.answers is not None:
        rows.append(("our order to ack or reject", *_spread(data.answers.table)))
    if not rows:
        return ""
    header = ("ms", "n", "min", "p50", "p90", "p99", "p99.9", "max")
    note = "Feeds: ts − ts_event of every quote, not sampled."
    return _table("Latency", header, rows, note=note)


def _spread(table: Mapping[str, float | int | None]) -> tuple[str, ...]:
    n, *rest = table.values()
    return (
        f"{n:,}", *("—" if v is None else f"{v / 1e6:,.3f}".replace("-", "−") for v in rest),
    )  # fmt: skip


def _old_signals(data: ReportData) -> str:
    if data.decided is None or not data.decided.quotes:
        return ""
    whole = data.decided.quotes
    rows = [
        (f"{secs:g} s", f"{n:,}", f"{n / whole:.2%}") for secs, n in data.decided.old.items()
    ]  # fmt: skip
    note = f"Of {whole:,} quotes decided on a signal, those whose signal was older than so much."
    return _table("Quotes on an old signal", ("older than", "quotes", "share"), rows, note=note)


def _quality(data: ReportData) -> str:
    feeds = data.feeds.feeds
    if not feeds:
        return ""
    rows: list[tuple[str, ...]] = []
    for what in next(iter(feeds.values())).quality:
        values = [feed.quality[what] for feed in feeds.values()]
        name = what.removesuffix(", ns")
        if what.endswith(", ns"):
            told = [span(value) if value else "—" for value in values]
        elif what.endswith("from"):
            told = ["—" if value is None else iso(value)[:23] + "Z" for value in values]
        else:
            told = [f"{value:,}" for value in values]
        rows.append((name, *told))
    ties = data.summary.get("ties")
    choice = "" if ties is None else f" Where the order was a choice (ties): {ties:,}."
    note = (
        "“duplicates” repeat the quote before them in event time, prices and sizes; “event time "
        "back” is older than the one before it by the venue's clock. Instants that two feeds "
        f"share: {data.feeds.shared_instants:,}.{choice}"
    )
    header = ("", *(data.names[name] for name in feeds))
    return _table("Data quality", header, rows, note=note)


def _changed(data: ReportData) -> str:
    if data.settings is None:
        return ""
    title = "Settings other than the default"
    if not data.changed:
        return _nothing(title, f"None: preset {data.settings.strategy.preset} as it comes.")
    rows = [(key, _told(value), _told(default)) for key, value, default in data.changed]
    return _table(title, ("", "used", "default"), rows, texts=frozenset({1, 2}))


def _told(value: Any) -> str:
    return "not set" if value is None else str(value)


def _anomalies(data: ReportData) -> str:
    anomalies = data.summary.get("anomalies")
    if not anomalies:
        return ""
    rows = [(what, f"{n:,}") for what, n in anomalies.items()]
    return _table("What the venue said and did not fit", ("", "times"), rows)


def _fills(data: ReportData) -> str:
    if data.traded is None:
        return ""
    if not data.traded.total:
        return _nothing("Fills", "No fills in this run.")
    listed = data.traded.fills.head(_LISTED_FILLS)
    rows = [
        (iso(row["ts"]), row["side"], format_units(row["px"]), format_units(row["qty"]),
         str(row["liquidity"]), format_units(row["fee"]), str(row["n"]))
        for row in listed.iter_rows(named=True)
    ]  # fmt: skip
    more = data.traded.total - listed.height
    note = f"{more:,} more are in fills.parquet." if more else ""
    header = ("time", "side", "price", "size", "", "fee", "order")
    return _table(f"Fills ({data.traded.total:,})", header, rows, note=note)


def _about(data: ReportData) -> str:
    files = data.manifest.files.items()
    rows = [
        (f"{name}.parquet", f"{entry.rows:,}", entry.sha256)
        for name, entry in files
    ]  # fmt: skip
    rows += [(name, version, "") for name, version in data.manifest.versions.items()]
    table = _table("Files and versions", ("", "rows or version", "sha256"), rows)
    digest = data.summary.get("digest")
    told = f"<p><code>digest {escape(str(digest))}</code></p>" if digest else ""
    return f"<details><summary>Files, versions and digest</summary>{told}{table}</details>"


def _nothing(title: str, text: str) -> str:
    return f'<div class="table"><h2>{escape(title)}</h2><p class="missing">{escape(text)}</p></div>'
