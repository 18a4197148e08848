#!/usr/bin/env python3
"""The Mandelbrot set once more, with classes: the manner of Parasnake 0.1.

What it shows: a server class hands out rows and takes care of lost nodes itself, a node class
computes. The settings with the secret key are in mandelbrot_classes.json; the server makes it.

How to run it (Pillow is needed where the image is saved: pip install pillow):

    python examples/mandelbrot_classes.py --server       the server; then, as often as you like,
    python examples/mandelbrot_classes.py                a node in the same folder, or
    python examples/mandelbrot_classes.py --ip HOST      elsewhere, with a copy of the settings

What to expect: after some seconds there is mandelbrot.png, 1024 x 1024 pixels in shades of grey, the
same to the bit as that of mandelbrot.py.
"""

import argparse
import importlib.util
import logging
import secrets
import sys
from pathlib import Path

from parasnake import PSConfiguration, PSNode, PSNodeId, PSServer

LIMIT = 100
SETTINGS = Path("mandelbrot_classes.json")


class MandelbrotServer(PSServer):
    def __init__(self, configuration: PSConfiguration, size: int) -> None:
        super().__init__(configuration)
        self.size = size
        self.to_do = list(range(size))
        self.works_on: dict[PSNodeId, int] = {}
        self.rows: dict[int, bytes] = {}

    def ps_get_init_data(self, node_id: PSNodeId) -> int:
        return self.size

    def ps_get_new_data(self, node_id: PSNodeId) -> int | None:
        if not self.to_do:
            return None
        self.works_on[node_id] = self.to_do.pop(0)
        return self.works_on[node_id]

    def ps_process_result(self, node_id: PSNodeId, result: bytes) -> None:
        self.rows[self.works_on.pop(node_id)] = result

    def ps_node_timeout(self, node_id: PSNodeId) -> None:
        if node_id in self.works_on:
            self.to_do.append(self.works_on.pop(node_id))

    def ps_is_job_done(self) -> bool:
        return len(self.rows) == self.size

    def ps_save_data(self) -> None:
        from PIL import Image

        pixels = b"".join(self.rows[row] for row in range(self.size))
        Image.frombytes("L", (self.size, self.size), pixels).save("mandelbrot.png")
        print("The image is in mandelbrot.png")


class MandelbrotNode(PSNode):
    def ps_init(self, data: int) -> None:
        self.size = data

    def ps_process_data(self, data: int) -> bytes:
        return bytes(255 - 255 * self.steps(data, column) // LIMIT for column in range(self.size))

    def steps(self, row: int, column: int) -> int:
        c = complex(-2.1 + 2.8 * column / self.size, -1.4 + 2.8 * row / self.size)
        z = 0j
        for n in range(LIMIT):
            if abs(z) > 2:
                return n
            z = z * z + c
        return LIMIT


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", "--server", action="store_true", help="be the server")
    parser.add_argument("--ip", default="127.0.0.1", help="where the server is (this machine)")
    parser.add_argument("--port", type=int, default=3100, help="the server's port (3100)")
    parser.add_argument("--size", type=int, default=1024, help="of the image, in pixels (1024)")
    options = parser.parse_args()
    if options.server and importlib.util.find_spec("PIL") is None:
        sys.exit("The image is saved with Pillow, which is missing: pip install pillow")
    if options.server and not SETTINGS.exists():
        SETTINGS.touch(mode=0o600)
        SETTINGS.write_text(f'{{"secret_key": "{secrets.token_hex(16)}"}}')
    settings = PSConfiguration.from_json(SETTINGS)
    settings.server_address, settings.server_port = options.ip, options.port
    is_server = options.server
    (MandelbrotServer(settings, options.size) if is_server else MandelbrotNode(settings)).ps_run()
