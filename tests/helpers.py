"""What tests of real processes share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeVar

T = TypeVar("T")

_PAUSE_S = 0.005


def wait_until(condition: Callable[[], T | Literal[False] | None], timeout: float = 60) -> T:
    """Wait until the condition gives something true, and return that; at most so many seconds.

    Raises
    ------
    TimeoutError: it never did
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still not true after {timeout} s: {condition}")
        time.sleep(_PAUSE_S)
    return value
