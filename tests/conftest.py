"""What all tests share: how hard Hypothesis tries, and fixtures for real processes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from children import run_script, start_child, start_method
from hypothesis import HealthCheck, settings

__all__ = ["run_script", "start_child", "start_method"]

# A slow moment of a busy machine is no failure, and neither is a strategy that takes long to draw.
settings.register_profile(
    "here", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")

# A shell starts what it runs in the background deaf to Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def unmeasured() -> Iterator[None]:
    """Coverage is not measured, where that takes long and tells nothing new.

    The mark of pytest-cov stops and starts the measuring as a whole, and with each start all later
    forks take longer.
    """
    trace = sys.gettrace()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        sys.settrace(None)
        yield
        sys.settrace(trace)
