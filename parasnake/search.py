"""An agent's search for its server: once and again, by the settings and by an access file."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from parasnake.access import Guide
from parasnake.core.messages import Message
from parasnake.core.pauses import Pauses
from parasnake.dial import Dial, Failure
from parasnake.errors import ConfigurationError, RefusedError
from parasnake.links import Connection
from parasnake.loop import Loop, Timer

FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 10.0
"""Pauses between two tries to reach the server: they double from one to the other."""
LOOK_SECONDS = 1.0
"""How often an agent without a server looks into the access file."""


class Search:
    """Tries to reach the server until it is found or ``cancel`` is called.

    Parameters
    ----------
    guide: where the server may be, and with which key
    on_found: is called with a connection to it, its address and what became of the addresses before it
    on_nothing: is called when one try has come to nothing, with what was tried as text, and with the
        reason why it would be the same another time, if there is one. Who wants another calls ``again``
    on_messages, on_end: of the connection, see ``Link``
    """

    def __init__(
        self,
        loop: Loop,
        guide: Guide,
        *,
        on_found: Callable[[Connection, str, list[Failure]], None],
        on_nothing: Callable[[str, RefusedError | None], None],
        on_messages: Callable[[list[Message]], None],
        on_end: Callable[[str, Exception | None], None],
    ) -> None:
        self._loop = loop
        self._guide = guide
        self._on_found = on_found
        self._on_nothing = on_nothing
        self._on_messages = on_messages
        self._on_end = on_end
        self._pauses = Pauses(FIRST_PAUSE_S, LAST_PAUSE_S)
        self._missing = ""
        self._strict = True
        self._dial: Dial | None = None
        self._dial_timer: Timer | None = None
        self._look_timer: Timer | None = None

    @property
    def longest_pause(self) -> float:
        """Seconds until the next try at the most, if there is one."""
        return self._pauses.longest

    def begin(self) -> None:
        """Try now. Raises ``ConfigurationError`` for an access file that cannot be used."""
        self._missing = self._look()
        if self._guide.key is None:
            self._nothing([])
            return
        self._dial = Dial(
            self._loop,
            self._guide.places,
            self._guide.key,
            on_connected=self._found,
            on_failed=self._nothing,
            on_messages=self._on_messages,
            on_end=self._on_end,
        )
        self._look_again_later()

    def again(self, *, strict: bool) -> None:
        """Try after a pause that differs from agent to agent, so that they come one by one.

        Unless it is ``strict``, an access file that cannot be used is as good as none.
        """
        self._strict = strict
        pause = self._pauses.next(random.random())
        self._dial_timer = self._loop.call_in(pause, self.begin)
        self._look_again_later()

    def start_over(self) -> None:
        """Make the next pauses short again: the server that was found is one that serves."""
        self._pauses.start_over()

    def cancel(self) -> None:
        """Try no more, silently."""
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        for timer in (self._dial_timer, self._look_timer):
            if timer is not None:
                timer.cancel()

    def told(self, *failures: str) -> str:
        """Say where it was looked for, and what became of each address."""
        return self._guide.told(self._missing, failures)

    # ---- the access file

    def _look(self) -> str:
        try:
            return self._guide.look(self._loop.now())
        except ConfigurationError as error:
            if self._strict:
                raise
            return str(error)

    def _look_again_later(self) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
        if self._guide.may_change:
            self._look_timer = self._loop.call_in(LOOK_SECONDS, self._look_again)

    def _look_again(self) -> None:
        """See whether the server has come back elsewhere while it was looked for where it was."""
        before = self._guide.key, self._guide.places
        self._missing = self._look()
        if before == (self._guide.key, self._guide.places):
            self._look_again_later()
        else:
            self.cancel()
            self.begin()

    # ---- what a dial tells

    def _found(self, connection: Connection, address: str, failures: list[Failure]) -> None:
        self._dial = None
        self.cancel()
        self._on_found(connection, address, failures)

    def _nothing(self, failures: Sequence[Failure]) -> None:
        self._dial = None
        tried = self.told(*(failure.text for failure in failures))
        self._on_nothing(tried, self._refused_by_all(failures))

    def _refused_by_all(self, failures: Sequence[Failure]) -> RefusedError | None:
        """The reason to try no more, if there is one; an access file may yet be written anew."""
        refusals = {each.place: each.refusal for each in failures if each.refusal is not None}
        if self._guide.may_change or len(refusals) < len({*self._guide.places}):
            return None
        return next(iter(refusals.values()))
