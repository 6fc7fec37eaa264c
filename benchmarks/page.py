"""Tables that benchmarks write into pages, between two marks."""

from __future__ import annotations


def replaced(page: str, begin: str, end: str, table: str) -> str:
    """The page with `table` between its one mark `begin` and the next mark `end`. Raises ValueError where `begin` is not there once."""
    before, rest = page.split(begin)
    return before + begin + table + end + rest.split(end, 1)[1]
