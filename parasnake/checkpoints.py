"""Checkpoints: now and then the user's state takes the place of what a journal has so far."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from parasnake import payload
from parasnake.core.journal import Checkpoint
from parasnake.core.messages import Parts
from parasnake.core.rhythm import Rhythm
from parasnake.errors import HookError, PayloadError
from parasnake.hooks import Hook
from parasnake.tracebacks import of_user_code

if TYPE_CHECKING:
    from parasnake.journal import Journal
    from parasnake.recorder import Recorder

log = logging.getLogger(__name__)


class Checkpoints:
    """Makes checkpoints of a job when they are due.

    Parameters
    ----------
    name: of the app
    hook: gives the user's state
    recorder, journal: where it goes
    rhythm: says when
    done: makes the entry, with the state of the user's, out of what the server knows
    clock: tells the time in seconds
    """

    def __init__(
        self,
        name: str,
        hook: Hook,
        recorder: Recorder,
        journal: Journal,
        rhythm: Rhythm,
        *,
        done: Callable[[Parts], Checkpoint],
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._hook = hook
        self._recorder = recorder
        self._journal = journal
        self._rhythm = rhythm
        self._done = done
        self._clock = clock

    def worked_since(self, begin: float) -> None:
        """Hooks have been called from then on; make a checkpoint if it is time for one.

        Raises
        ------
        HookError: the hook raised
        PayloadError: what it returned cannot be kept
        JournalError: the journal cannot be written
        """
        now = self._clock()
        self._rhythm.worked(now - begin)
        if self._rhythm.due(self._journal.grown, now):
            self._make()

    def stopping(self) -> None:
        """The server is about to end before the job is done."""
        if not (self._journal.grown or self._journal.waiting):
            return
        try:
            self._make()
        except (HookError, PayloadError) as error:
            log.error("%s: %s\n%s", self._name, error, of_user_code(error))

    def _make(self) -> None:
        begin = self._clock()
        size = self._recorder.checkpoint(self._entry)
        if size is not None:
            now = self._clock()
            self._rhythm.made(size, begin, now)
            log.debug("%s: a checkpoint of %d bytes in %.3f s", self._name, size, now - begin)

    def _entry(self) -> Checkpoint:
        try:
            state = self._hook()
        except Exception as error:
            raise HookError(self._hook.name) from error
        try:
            return self._done(tuple(payload.dumps(state, name="state").parts))
        except PayloadError as error:
            raise PayloadError(
                f"what @app.checkpoint returned cannot be kept: {error}; the journal is as it was",
                type_name=error.type_name,
                place=error.place,
            ) from error
