"""A program in the manner of Parasnake 0.1, in which a node times out.

It lives in one event loop: a server and three nodes, one of which is cancelled while it computes.
"""

import asyncio
import sys
import time

from parasnake import PSConfiguration, PSNode, PSNodeId, PSServer


class TestServer(PSServer):
    def __init__(self, config):
        super().__init__(config)
        self.todo = list(range(12))
        self.active = {}
        self.results = {}
        self.timeouts = []

    def ps_is_job_done(self):
        return len(self.results) == 12

    def ps_get_new_data(self, node_id):
        if self.todo:
            self.active[node_id] = self.todo.pop(0)
            return self.active[node_id]
        return None

    def ps_process_result(self, node_id, result):
        number = self.active.pop(node_id)  # a KeyError for a node that has timed out
        self.results[number] = result

    def ps_node_timeout(self, node_id):
        self.timeouts.append(node_id)
        if node_id in self.active:
            self.todo.append(self.active.pop(node_id))


class TestNode(PSNode):
    def __init__(self, config, stalls=False):
        super().__init__(config)
        self.stalls = stalls
        self.has_data = False
        self.count = 0

    def ps_process_data(self, data):
        self.has_data = True
        while self.stalls:
            time.sleep(0.01)
        self.count += 1
        return data + 100


async def main():
    config = PSConfiguration("a key that has exactly 32 bytes!")
    config.server_port = int(sys.argv[1])
    server = TestServer(config)
    bad = TestNode(config, stalls=True)
    good = [TestNode(config), TestNode(config)]

    server_task = asyncio.create_task(server.ps_main_loop())
    bad_task = asyncio.create_task(bad.ps_start_tasks())
    while not bad.has_data:
        await asyncio.sleep(0.01)
    bad_task.cancel()
    good_tasks = [asyncio.create_task(node.ps_start_tasks()) for node in good]
    await asyncio.gather(server_task, *good_tasks)

    assert server.timeouts == [bad.node_id], server.timeouts
    assert isinstance(server.timeouts[0], PSNodeId)
    assert sorted(server.results.items()) == [(n, n + 100) for n in range(12)]
    assert sum(node.count for node in good) == 12
    assert server.quit_counter == 0
    print("all well")


if __name__ == "__main__":
    asyncio.run(main())
