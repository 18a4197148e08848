"""What an app does instead of running, where a command of this library executes its script."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from parasnake.hooks import HookTable

action: Callable[[str, HookTable], NoReturn] | None = None
"""Gets the app's name and hooks; None: the app runs."""
