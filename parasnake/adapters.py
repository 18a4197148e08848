"""What the class adapters share: how they run an app, in the foreground or awaited."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import signal
import threading
from collections.abc import Callable, Iterator

from parasnake.app import Parasnake
from parasnake.errors import HookError, Interrupted, NodeFailed, ParasnakeError, TaskFailed

APP_NAME = "parasnake-classes"
"""All class programs have this app name, as 0.1 had none."""

Work = Callable[[], object]

_nodes: dict[Parasnake, tuple[int, bytes]] = {}
"""The nodes that run in this process now, with port and key of their servers."""


@contextlib.contextmanager
def at_work(node: Parasnake, *, port: int, key: bytes) -> Iterator[None]:
    """While this node runs, ``send_home`` finds it."""
    _nodes[node] = (port, key)
    try:
        yield
    finally:
        del _nodes[node]


def send_home(*, port: int, key: bytes) -> None:
    """End the nodes in this process whose server has just ended here.

    Most have heard that from the server itself. But a short job may end before a node has found
    the server, and that node would wait for the next one: its program, which has them all in one
    event loop, would never end.
    """
    for node, server in list(_nodes.items()):
        if server == (port, key):
            node.stop()


def new_app() -> Parasnake:
    """An app for one run of a class program; 0.1 never looked at the other side's code."""
    return Parasnake(APP_NAME, compare_code=False)


def carry_out(work: Work, *, who: str, log: logging.Logger) -> ParasnakeError | None:
    """Run an app as the users of 0.1 expect it.

    Parameters
    ----------
    work: runs the app
    who: begins the line that is logged for an error
    log: for that line

    Returns
    -------
    the error of the library's that ended the run, which has been logged, or None

    Raises
    ------
    KeyboardInterrupt: SIGINT came, as anywhere in Python
    Exception: what a method of the user's on the server raised, as it is
    """
    try:
        work()
    except Interrupted as error:
        failure: ParasnakeError = error
    except ParasnakeError as error:
        failure = error
    else:
        return None
    if isinstance(failure, Interrupted) and failure.signal_number == signal.SIGINT:
        raise KeyboardInterrupt
    if isinstance(failure, HookError) and failure.__cause__ is not None:
        raise failure.__cause__
    log.error("%s: %s%s", who, failure, _remote(failure))
    return failure


def _remote(failure: ParasnakeError) -> str:
    if isinstance(failure, TaskFailed):
        return f"\n{failure.__cause__}"
    if isinstance(failure, NodeFailed) and failure.remote:
        return f"\n{failure.remote}"
    return ""


async def in_background(work: Work, *, cancel: Callable[[], object], wait_for_end: bool) -> None:
    """Await ``work`` in a thread of its own.

    It is a daemon thread: user code that never ends keeps no program from ending.

    Parameters
    ----------
    work: what it raises is raised here
    cancel: is called when the awaiting task is cancelled, and makes ``work`` return soon
    wait_for_end: whether the cancelled task waits for that; a second cancellation ends the wait
    """
    import asyncio  # is there already, and every other program starts faster without it

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[BaseException | None] = loop.create_future()

    def live() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:
            error = raised
        # After a cancellation the event loop may be gone by now.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(end, error)

    def end(error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result(error)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(live,), name="parasnake", daemon=True).start()
    try:
        error = await asyncio.shield(ended)
    except asyncio.CancelledError:
        cancel()
        if wait_for_end:
            await asyncio.wait([ended])
        raise
    if error is not None:
        raise error
