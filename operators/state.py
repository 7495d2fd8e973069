"""State: the latest of the signal and of the target, or why there is none."""

from typing import TypeAlias

from streams.events import Anchor, Refusal, Residual, Source

__all__ = ["State", "refuse_state", "seq_of"]

State: TypeAlias = tuple[Residual | Refusal, Anchor | Refusal]
"""The latest of the signal and the latest of the target."""


def seq_of(state: State) -> int:
    """Sequence number of the input that a state was made from."""
    signal, anchor = state
    return max(signal.seq, anchor.seq)


def refuse_state(
    state: State, by: Source, reason: str, ts: int, value: float | None, limit: float | None
) -> State:
    """Put a guard's refusal in the target's place, so that nothing is quoted on the state."""
    signal, _ = state
    return signal, Refusal(seq_of(state), ts, by, reason, value=value, limit=limit)
