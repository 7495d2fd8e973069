"""Auth tokens of Lighter: read, and judged as far as it goes without the signature."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Final

__all__ = ["token_refusal"]

_TOKEN: Final = re.compile(r"(\d+):(\d+):(\d+):([0-9a-f]{160})")
_READ_ONLY: Final = re.compile(r"ro:(\d+):(single|all):(\d+):[0-9a-f]+")


def token_refusal(
    token: str,
    *,
    account: int,
    keys: Mapping[int, Container[int]],
    now_s: int,
    longest_s: int,
) -> str:
    """Say why a token does not open ``account``'s private data; empty when it does.

    ``keys`` holds the registered key indexes by account. The signature is checked for its shape
    only. Units: seconds.
    """
    read_only = _READ_ONLY.fullmatch(token)
    if read_only:
        if int(read_only[1]) != account:
            return "invalid auth: account index mismatch"
        return "" if int(read_only[3]) > now_s else "invalid auth: expired token"
    parts = _TOKEN.fullmatch(token)
    if not parts:
        return "invalid auth: invalid token"
    deadline, owner, key = int(parts[1]), int(parts[2]), int(parts[3])
    if deadline <= now_s:
        return "invalid auth: expired token"
    if deadline > now_s + longest_s:
        return "invalid auth: invalid deadline"
    if owner != account:
        return "invalid auth: account index mismatch"
    if key not in keys.get(owner, ()):
        return "invalid auth: api key not found"
    return ""
