"""The script's own command line arguments, in the process that parsed them and in its workers."""

from __future__ import annotations

import argparse

current: argparse.Namespace | None = None
"""What ``app.main(parser)`` got out of the command line; None before."""
