"""Skew: how far signal and inventory shift the quote centre."""

from typing import Any

from reactivex import Observable, abc

from operators.operator import Link, Operator, link
from streams.events import Anchor, Inventory, Residual, Skewed

__all__ = ["inventory_shift", "signal_shift", "skew", "total_shift"]


def signal_shift(factor: float, residual: float) -> float:
    """Price units that the signal asks for; a step."""
    return factor * residual


def inventory_shift(factor: float, position: int) -> float:
    """Price units that a position (1e-9 base units) asks for; a step."""
    return factor * (position / 1e9)


def total_shift(by_signal: float, by_inventory: float) -> float:
    """Shift of the quote centre: up with the signal, down when long; a step."""
    return by_signal - by_inventory


def skew(
    signal_skew_factor: float, inventory_skew_factor: float
) -> Operator[tuple[tuple[Residual, Anchor], Inventory], Skewed]:
    """Put signal, anchor and inventory together with the shift they ask for.

        shift = signal_skew_factor × residual − inventory_skew_factor × net position

    Units: signal_skew_factor in price units per unit of residual, inventory_skew_factor in price
        units per base unit of position.
    Shape: one out per input, synchronous.
    """

    def operator(source: Observable[tuple[tuple[Residual, Anchor], Inventory]]) -> Any:
        def subscribe(
            observer: abc.ObserverBase[Skewed], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            emit = observer.on_next

            def on_next(state: tuple[tuple[Residual, Anchor], Inventory]) -> None:
                (signal, anchor), inventory = state
                by_signal = signal_shift(signal_skew_factor, signal.residual)
                by_inventory = inventory_shift(inventory_skew_factor, inventory.position)
                emit(
                    Skewed(
                        signal, anchor, inventory,
                        by_signal, by_inventory, total_shift(by_signal, by_inventory),
                    )
                )  # fmt: skip

            return link(source, on_next, observer.on_error, observer.on_completed, scheduler)

        return Link(subscribe)

    return operator
