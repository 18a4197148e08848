"""What all tests share: how hard Hypothesis tries, and fixtures for real processes."""

from __future__ import annotations

import os

from children import run_script, start_child, start_method
from hypothesis import HealthCheck, settings

__all__ = ["run_script", "start_child", "start_method"]

# A slow moment of a busy machine is no failure, and neither is a strategy that takes long to draw.
settings.register_profile(
    "here", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")
