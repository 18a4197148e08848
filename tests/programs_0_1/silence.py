"""A program in the manner of 0.1 whose nodes are busy for long, or held up; heartbeat_timeout=10.

python silence.py server PORT
python silence.py gil PORT SECONDS      holds the interpreter's lock so long for its first data
python silence.py held PORT FILE        computes until there is this file
"""

import ctypes
import json
import logging
import sys
import time
from pathlib import Path

from parasnake import PSConfiguration, PSNode, PSServer


class Server(PSServer):
    def __init__(self, config):
        super().__init__(config)
        self.todo = ["a", "b"]
        self.active = {}
        self.results = []
        self.timeouts = []

    def ps_is_job_done(self):
        return len(self.results) == 2

    def ps_get_new_data(self, node_id):
        if not self.todo or node_id in self.timeouts:
            return None
        self.active[node_id] = self.todo.pop(0)
        return self.active[node_id]

    def ps_process_result(self, node_id, result):
        self.results.append([self.active.pop(node_id), result])

    def ps_node_timeout(self, node_id):
        self.timeouts.append(node_id)
        self.todo.append(self.active.pop(node_id))

    def ps_save_data(self):
        print(json.dumps({"results": self.results, "timeouts": len(self.timeouts)}), flush=True)


class GilNode(PSNode):
    def ps_process_data(self, data):
        if data == "b":
            ctypes.PyDLL(None).sleep(int(sys.argv[3]))
        return "gil"


class HeldNode(PSNode):
    def ps_process_data(self, data):
        print("begun", flush=True)
        while not Path(sys.argv[3]).exists():
            time.sleep(0.01)
        return "held"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    config = PSConfiguration("a key that has exactly 32 bytes!")
    config.server_port = int(sys.argv[2])
    config.heartbeat_timeout = 10
    {"server": Server, "gil": GilNode, "held": HeldNode}[sys.argv[1]](config).ps_run()
    print("end", flush=True)
