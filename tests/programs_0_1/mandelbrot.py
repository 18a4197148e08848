"""A program in the manner of Parasnake 0.1: rows of the Mandelbrot set.

python mandelbrot.py --server
python mandelbrot.py
"""

import logging
import sys
from pathlib import Path
from typing import Any, override

from parasnake.ps_config import PSConfiguration
from parasnake.ps_node import PSNode
from parasnake.ps_nodeid import PSNodeId
from parasnake.ps_server import PSServer

logger = logging.getLogger(__name__)

SIZE = 48


class MandelServer(PSServer):
    def __init__(self, config: PSConfiguration):
        super().__init__(config)
        self.rows: list[Any] = [None] * SIZE
        self.handed_out: dict[PSNodeId, int] = {}
        self.next_row = 0
        self.again: list[int] = []

    @override
    def ps_get_init_data(self, node_id: PSNodeId) -> Any:
        logger.debug(f"Init data for {node_id}")
        return {"size": SIZE, "max_iter": 100}

    @override
    def ps_is_job_done(self) -> bool:
        return all(row is not None for row in self.rows)

    @override
    def ps_get_new_data(self, node_id: PSNodeId) -> Any:
        if self.again:
            row = self.again.pop()
        elif self.next_row < SIZE:
            row = self.next_row
            self.next_row += 1
        else:
            return None
        self.handed_out[node_id] = row
        return row

    @override
    def ps_process_result(self, node_id: PSNodeId, result: Any) -> None:
        row = self.handed_out[node_id]
        del self.handed_out[node_id]
        self.rows[row] = result

    @override
    def ps_node_timeout(self, node_id: PSNodeId) -> None:
        if node_id in self.handed_out:
            self.again.append(self.handed_out.pop(node_id))

    @override
    def ps_save_data(self) -> None:
        with Path("mandel.pgm").open("wb") as f:
            f.write(f"P5 {SIZE} {SIZE} 255\n".encode())
            for row in self.rows:
                f.write(bytes(row))


class MandelNode(PSNode):
    def __init__(self, config: PSConfiguration):
        super().__init__(config)
        self.counter = 0

    @override
    def ps_init(self, data: Any) -> None:
        self.size = data["size"]
        self.max_iter = data["max_iter"]

    @override
    def ps_process_data(self, data: Any) -> Any:
        self.counter += 1
        return [self.grey(data, column) for column in range(self.size)]

    def grey(self, row: int, column: int) -> int:
        c = complex(-2.1 + 2.8 * column / self.size, -1.4 + 2.8 * row / self.size)
        z = 0j
        for n in range(self.max_iter):
            if abs(z) > 2:
                return 255 - 255 * n // self.max_iter
            z = z * z + c
        return 0


if __name__ == "__main__":
    config = PSConfiguration.from_json("mandel_config.json")
    if "--server" in sys.argv:
        server = MandelServer(config)
        server.ps_run()
        print(f"quit: {server.quit}, quit_counter: {server.quit_counter}")
    else:
        node = MandelNode(config)
        node.ps_run()
        print(f"rows: {node.counter}, max_iter: {node.max_iter}")
