"""Python's search for cyclic garbage, while there are thousands of tasks that live for a moment."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

THRESHOLD = 10_000
"""So many new objects are there before Python looks for garbage among them."""


@contextlib.contextmanager
def seldom_searched() -> Iterator[None]:
    """Have Python look less often, and in the end as before.

    Tasks under way are many objects and no garbage: a tenth of a server's time would go into
    looking through them. Who has set larger thresholds or looks by himself is left alone. (Freezing
    what is there already would help too, but whatever is unfreezed counts as old: the garbage of
    many short runs would not be found for long.)
    """
    before = gc.get_threshold()
    if not gc.isenabled() or not 0 < before[0] < THRESHOLD:
        yield
        return
    gc.set_threshold(THRESHOLD, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
