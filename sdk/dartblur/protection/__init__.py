"""What keeps faces covered: tracks, lookahead, zones, self-check, and what leaves when all fails."""

from __future__ import annotations

from .policy import ON_FAULT, OnFault, Protection

__all__ = ["ON_FAULT", "OnFault", "Protection"]
