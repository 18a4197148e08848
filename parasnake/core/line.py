"""A line of those who wait, in which nobody need be looked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Line(Generic[T]):
    """Who waits, the first to be served first; anybody can step out at once, however long it is.

    Parameters
    ----------
    order: if there is one, the smallest come first, wherever they line up
    """

    def __init__(self, order: Callable[[T], int] | None = None) -> None:
        self._order = order
        self._in_order = True
        self._all: OrderedDict[T, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[T]:
        if self._order is not None and not self._in_order:
            self._all = OrderedDict.fromkeys(sorted(self._all, key=self._order))
        self._in_order = True
        return iter(self._all)

    def extend(self, items: Iterable[T], *, first: bool = False) -> None:
        """These wait, too: as they come, behind the others or (``first``) before them."""
        items = list(items)
        self._in_order = False
        for item in reversed(items) if first else items:
            self._all[item] = None
            self._all.move_to_end(item, last=not first)

    def discard(self, item: T) -> None:
        """It waits no longer, if it did."""
        self._all.pop(item, None)

    def clear(self) -> None:
        """Nobody waits."""
        self._all.clear()
