"""What very many nodes do must not cost the server a look at all of them each time.

These tests have no clock. They would take minutes if it did; the limit of time says so.
"""

from __future__ import annotations

import pytest

from parasnake.core.ids import Attempt, NodeKey, PeerId, TaskId
from parasnake.core.scheduler import Scheduler
from parasnake.core.tasks import AskData, Assign, Holding, Loss, Merge, OpenTask, Policy, digest_of

NODES = 1000
EACH = 60
"""Tasks of each node."""
DIGEST = digest_of((b"data",))

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("unmeasured")]


def key(number: int) -> NodeKey:
    return NodeKey(number.to_bytes(16, "big"))


def restored(policy: Policy) -> Scheduler:
    """A job with as many open tasks as its nodes had, after a restart."""
    scheduler = Scheduler(policy)
    scheduler.restore(
        [OpenTask(TaskId(n), key(n % NODES), (b"data",), 4, None) for n in range(NODES * EACH)],
        forgotten=(),
        handed_out=NODES * EACH,
        exhausted=True,
        now=0.0,
    )
    return scheduler


def held_by(number: int) -> list[Holding]:
    return [
        Holding(TaskId(n), Attempt(0), DIGEST, False) for n in range(number, NODES * EACH, NODES)
    ]


@pytest.mark.parametrize("ordered", [False, True])
def test_all_return_after_a_restart_and_again_after_a_loss(ordered: bool) -> None:
    scheduler = restored(Policy(ordered=ordered))
    for connection in range(2):
        for number in range(NODES):
            peer = PeerId(connection * NODES + number)
            assert all(scheduler.join(key(number), peer, held_by(number)))
        assert (scheduler.running, scheduler.waiting) == (NODES * EACH, 0)
        for number in range(NODES):
            scheduler.lose(key(number), Loss.LOST, "a switch was booted")
        assert scheduler.waiting == NODES * EACH


@pytest.mark.parametrize("ordered", [False, True])
def test_nobody_returns_after_a_restart(ordered: bool) -> None:
    scheduler = restored(Policy(ordered=ordered))
    scheduler.tick(1e6)
    assert scheduler.waiting == NODES * EACH
    for number in range(NODES):
        scheduler.join(key(NODES + number), PeerId(number))
    steps = [scheduler.next_step() for _ in range(NODES)]
    assert [task.id for step in steps if isinstance(step, Assign) for task in step.tasks] == list(
        range(NODES)
    )


def test_nodes_for_which_there_is_nothing() -> None:
    """Each merge has ``new_data`` asked again."""
    scheduler = Scheduler(Policy())
    for number in range(NODES):
        scheduler.join(key(number), PeerId(number))
    for _ in range(3 * EACH * NODES):
        assert isinstance(scheduler.next_step(), AskData)
        sent = scheduler.give([((b"data",), None)])
        assert isinstance(scheduler.next_step(), AskData)
        scheduler.nothing(0.0)
        assert scheduler.next_step() is None
        (task,) = sent.tasks
        scheduler.result(sent.node.key, task.id, task.newest, 1.0, (b"result",))
        assert isinstance(scheduler.next_step(), Merge)
        scheduler.settled(task)
