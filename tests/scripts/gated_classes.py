"""The Mandelbrot set of the examples with classes; nodes compute nothing until there is a file ``go``.

A node that has its first row makes a file with its process's id for a name.
"""

from __future__ import annotations

import os
import runpy
import time
from pathlib import Path
from typing import Any

from parasnake import PSNode

run = PSNode.ps_run


def gated_run(self: PSNode) -> None:
    """As it is, but not before the gate opens."""
    compute = self.ps_process_data

    def gated(data: Any) -> Any:
        Path(f"{os.getpid()}.begun").touch()
        while not Path("go").exists():
            time.sleep(0.01)
        return compute(data)

    self.ps_process_data = gated  # type: ignore[method-assign]
    run(self)


if __name__ == "__main__":
    PSNode.ps_run = gated_run  # type: ignore[method-assign]
    examples = Path(__file__).parent.parent.parent / "examples"
    runpy.run_path(str(examples / "mandelbrot_classes.py"), run_name="__main__")
