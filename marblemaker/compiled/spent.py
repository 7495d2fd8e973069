"""Spent: what ``summary.json`` tells of the account's budgets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marblemaker.compiled.layout import World
from marblemaker.compiled.texts import NULL_WORD
from marblemaker.replay import budget_summary
from operators.budget import FORECAST_NS, Budget, BudgetLimits, Forecast, gone_ns

__all__ = ["Spent"]


class Spent:
    """Keeps what was spent of the quota in the time that a forecast looks back."""

    def __init__(self, limits: BudgetLimits | None) -> None:
        """Without limits there is nothing to keep."""
        self._limits = limits
        self._rows: list[NDArray[Any]] = []

    def take(self, w: World) -> None:
        """Take the rows that the loop has put out, and make room for more."""
        b = w["budget"][0]
        if b["quota_rows"]:
            rows = np.concatenate([*self._rows, w["quota_out"][: b["quota_rows"]]])
            self._rows = [rows[rows["ts"] > b["last_ts"] - FORECAST_NS]]
            b["quota_rows"] = 0

    def summary(self, w: World) -> dict[str, Any] | None:
        """What the budgets were, and what is left; ``None`` without."""
        if self._limits is None:
            return None
        b = w["budget"][0]
        budget = Budget(self._limits, 0)
        budget.sent, budget.busiest = int(b["sent"]), int(b["busiest"])
        budget.spent, budget.earned = int(b["spent"]), int(b["earned"])
        budget.quota_left, budget.lowest_quota = _or_none(b["quota"]), _or_none(b["lowest_quota"])
        budget.exhausted_ns = _or_none(b["exhausted_ns"])
        return budget_summary(budget, self._forecast(w))

    def _forecast(self, w: World) -> Forecast | None:
        """The forecast at the latest change of our orders."""
        b = w["budget"][0]
        left, ts = _or_none(b["quota"]), int(b["last_ts"])
        if left is None or not ts:
            return None
        window = min(ts - int(b["first_ts"]), FORECAST_NS)
        spent = sum(int(rows["spent"][rows["ts"] > ts - FORECAST_NS].sum()) for rows in self._rows)
        gone = gone_ns(ts, left, spent, window) if window else 0
        return Forecast(ts, left, spent, window, gone or None)


def _or_none(value: Any) -> int | None:
    return None if value == NULL_WORD else int(value)
