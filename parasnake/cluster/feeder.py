"""A server that feeds itself: it has as many batch jobs as its work is worth."""

from __future__ import annotations

import dataclasses
import functools
import getpass
import logging
import os
import threading
import time
from collections.abc import Callable

from parasnake.cluster import commands, submit
from parasnake.cluster.order import Order
from parasnake.cluster.systems import BatchJob, BatchSystem, State
from parasnake.core import fleet
from parasnake.core.farm import AgentLeft, NodeJoined, Step
from parasnake.core.fleet import Fleet, Work
from parasnake.core.ids import JobId
from parasnake.errors import BatchError, ParasnakeError
from parasnake.loop import Loop, Timer

log = logging.getLogger(__name__)

LEAVE_SECONDS = 3.0
"""How long batch jobs have to end by themselves when the job is done; then they are cancelled."""
CLEAR_SECONDS = 60.0
"""How long it is looked, at the most, until none is left."""
LOOK_SECONDS = 0.5
MAX_LAST_WORDS = 300


class Feeder:
    """Submits nodes, replaces them, cancels them at the end. It lives beside a server.

    A batch job is known by its name, which has the id of the job in it: so the server finds those
    that it had before it was started again with its journal.

    Parameters
    ----------
    app_name: for the log
    order: what the user wants
    cpus: how many cores each node wants; None: what the batch system gives
    """

    def __init__(self, app_name: str, order: Order, cpus: int | None) -> None:
        self._app_name = app_name
        self._order = order
        self._cpus = cpus
        self._system: BatchSystem = submit.find_system(order.system)
        together = order.nodes if self._system.together else 1
        self._fleet = Fleet(order.nodes, life=order.seconds, together=together)
        self._name = ""
        self._loop: Loop | None = None
        self._work: Callable[[], Work] = lambda: Work(0, None, 1, idle=True)
        self._command: commands.Command | None = None
        self._timer: Timer | None = None
        self._began = 0.0
        self._told = ""
        self._clearing: threading.Thread | None = None

    # ---- its life

    def start(self, loop: Loop, job: JobId, work: Callable[[], Work]) -> None:
        """The server listens; ``work`` says what is left of its job."""
        self._loop, self._work = loop, work
        self._name = self._name_for(job)
        self._go()

    def tell(self, step: Step) -> None:
        """Something has happened on the farm."""
        if self._loop is None:
            return
        if isinstance(step, NodeJoined):
            self._fleet.reached()
        elif isinstance(step, AgentLeft):
            self._fleet.changed(self._loop.now())
            self._go()

    def stop(self) -> None:
        """The server ends: nothing is submitted any more. What there is stays."""
        if self._timer is not None:
            self._timer.cancel()
        if self._command is not None:
            self._command.stop()
        self._command = self._loop = self._timer = None

    def clear(self, job: JobId) -> None:
        """See that no batch job is left: in the background, until ``wait`` returns."""
        self._name = self._name_for(job)
        self._clearing = threading.Thread(target=self._clear, daemon=True)
        self._clearing.start()

    def wait(self) -> None:
        """Wait until no batch job is left, if that was asked for."""
        if self._clearing is not None:
            self._clearing.join()

    def _name_for(self, job: JobId) -> str:
        return self._system.job_name(self._order.stem, f"-{job.hex()[:8]}")

    # ---- feeding

    def _go(self) -> None:
        loop = self._loop
        if loop is None or self._command is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        step = self._fleet.next_step(loop.now())
        if step is None:
            deadline = self._fleet.deadline
            if deadline is not None:
                self._timer = loop.call_at(deadline, self._go)
            return
        self._began = loop.now()
        match step:
            case fleet.List():
                self._run(self._listing(), self._listed)
            case fleet.Submit(count):
                self._submit(count)
            case fleet.Cancel(jobs):
                log.info(
                    "%s: cancelling %d queued nodes: too little is left", self._app_name, len(jobs)
                )
                command = self._system.cancel(BatchJob(job, State.QUEUED) for job in jobs)
                self._run(command, self._cancelled)

    def _run(self, command: list[str], then: Callable[[str | BatchError], None]) -> None:
        assert self._loop is not None
        log.debug("%s: %s", self._app_name, " ".join(command))
        self._command = commands.Command(
            self._loop, command, functools.partial(self._done, then), self._order.start.folder
        )

    def _done(self, then: Callable[[str | BatchError], None], said: str | BatchError) -> None:
        self._command = None
        then(said)
        self._go()

    def _listing(self) -> list[str]:
        return self._system.listing(self._name, getpass.getuser())

    def _listed(self, said: str | BatchError) -> None:
        assert self._loop is not None
        now = self._loop.now()
        if isinstance(said, BatchError):
            self._complain(f"its nodes on the cluster are not known: {said}")
            self._fleet.not_listed(now)
            return
        jobs = self._system.listed(self._name, said)
        queued = [job.id for job in jobs if job.state is State.QUEUED]
        running = {job.id for job in jobs if job.state is State.RUNNING}
        took = now - self._began
        work = self._work()
        work = dataclasses.replace(work, workers=self._cpus or work.workers or 1)
        problem = self._fleet.listed(now, queued, running, work=work, took=took)
        if problem:
            self._failed(f"{problem}; {self._last_words()}")
        else:
            reasons = sorted({job.reason for job in jobs if job.state is State.QUEUED} - {""})
            log.debug(
                "%s: %d nodes run, %d are queued %s",
                *(self._app_name, len(running), len(queued), ", ".join(reasons)),
            )

    def _submit(self, count: int) -> None:
        order = dataclasses.replace(self._order, nodes=count)
        request = dataclasses.replace(
            submit.request_for(order, self._system, self._cpus), name=self._name
        )
        try:
            script = submit.write(order, self._system, request)
        except ParasnakeError as error:
            self._submitted(count, BatchError(str(error)))
            self._go()
            return
        command = self._system.submit(request, script)
        self._run(command, functools.partial(self._submitted, count))

    def _submitted(self, count: int, said: str | BatchError) -> None:
        assert self._loop is not None
        now = self._loop.now()
        try:
            if isinstance(said, BatchError):
                raise said
            job = self._system.submitted(said)
        except BatchError as error:
            self._fleet.not_submitted(now)
            self._failed(str(error))
            return
        self._told = ""
        self._fleet.submitted(now)
        nodes = "a node" if count == 1 else f"{count} nodes"
        log.info("%s: submitted %s, job %s", self._app_name, nodes, job)

    def _cancelled(self, said: str | BatchError) -> None:
        if isinstance(said, BatchError):
            self._complain(str(said))
        self._fleet.cancelled()

    def _failed(self, why: str) -> None:
        if self._fleet.given_up:
            log.error("%s: no more nodes are submitted: %s", self._app_name, why)
        else:
            self._complain(f"{why}; will try again")

    def _complain(self, text: str) -> None:
        """Log it, unless it is what was said last."""
        level = logging.DEBUG if text == self._told else logging.WARNING
        self._told = text
        log.log(level, "%s: %s", self._app_name, text)

    def _last_words(self) -> str:
        """Say where the output of nodes is, and how the newest ends."""
        folder = self._order.folder
        try:
            newest = max(folder.glob("*.out"), key=os.path.getmtime)
            lines = newest.read_text(errors="replace").strip().splitlines()
        except (OSError, ValueError):
            return f"their output would be in {folder}"
        return f"{newest} ends with: {lines[-1][-MAX_LAST_WORDS:] if lines else 'nothing'}"

    # ---- the end

    def _clear(self) -> None:
        begin = time.monotonic()
        try:
            while jobs := self._system.listed(self._name, commands.run(self._listing())):
                late = time.monotonic() - begin
                if late > CLEAR_SECONDS:
                    ids = " ".join(job.id for job in jobs)
                    raise BatchError(f"these batch jobs are still there: {ids}")
                over = (State.QUEUED,) if late < LEAVE_SECONDS else (State.QUEUED, State.RUNNING)
                if superfluous := [job for job in jobs if job.state in over]:
                    self._cancel_now(superfluous)
                time.sleep(LOOK_SECONDS)
        except BatchError as error:
            log.warning("%s: %s", self._app_name, error)

    def _cancel_now(self, jobs: list[BatchJob]) -> None:
        try:
            commands.run(self._system.cancel(jobs))
        except BatchError as error:  # some have ended since they were listed
            log.debug("%s: %s", self._app_name, error)
