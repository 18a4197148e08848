"""Everything that Parasnake raises.

ParasnakeError
    ConfigurationError              a setting, hook or key of the user's is wrong
        LegacyConfigurationError    the same, for code that expects 0.1's AssertionError
        ReplayError                 the script does not do what its journal says it did
    ConnectError                    the server could not be reached in time
    ConnectionLostError             the connection to the server broke and did not come back
    RefusedError                    the peer must not be tried again
        WrongKeyError               it holds another key
        NotParasnakeError           whatever answers there is no Parasnake server
    ProtocolError                   a peer broke a rule of the wire
        HandshakeError              before it had proven that it holds the key
        RecordError                 a record was forged, lost, repeated, swapped or too large
        MessageError                a record held no valid message
    PayloadError                    an object cannot be turned into bytes, or back
        UnreadablePayload           what it needs is missing here, or refuses to be rebuilt
    JournalError                    the journal cannot be written, or is damaged
    HookError                       a hook of the user's raised; its cause is what it raised
    TaskFailed                      a task has failed for good
    NodeFailed                      a node cannot do any work (its node_init raises, say)
    BatchError                      the batch system does not do what it is asked for
    Interrupted                     a signal ended the run

Each has an ``exit_status``: what ``main()`` and the command exit with.
"""

from __future__ import annotations


class ParasnakeError(Exception):
    """Root of all errors of this library.

    Attributes
    ----------
    exit_status: what ``main()`` and the command exit with
    """

    exit_status = 1


class ConfigurationError(ParasnakeError):
    """A setting, a hook or a key is wrong; the text says what would be right."""

    exit_status = 2


class LegacyConfigurationError(ConfigurationError, AssertionError):
    """A wrong value in the class interface, where 0.1 raised ``AssertionError``."""


class ReplayError(ConfigurationError):
    """The script does something else than what its journal has recorded.

    The journal is as it was. Start the script as it was then, or begin a new journal.
    """


class ConnectError(ParasnakeError):
    """No server answered within ``connect_timeout``."""

    exit_status = 3


class ConnectionLostError(ParasnakeError):
    """The connection to the server broke."""

    exit_status = 3


class RefusedError(ParasnakeError):
    """The server does not want this node; trying again would not help."""

    exit_status = 4


class WrongKeyError(RefusedError):
    """Server and node hold different secret keys."""


class NotParasnakeError(RefusedError):
    """Something answers at the address, but it is no Parasnake server."""


class ProtocolError(ParasnakeError):
    """A peer broke a rule of the wire; its connection ends."""


class HandshakeError(ProtocolError):
    """The handshake failed: the peer has not proven that it holds the key."""


class RecordError(ProtocolError):
    """A record did not authenticate or is longer than allowed."""


class MessageError(ProtocolError):
    """The plaintext of the records is not a sequence of valid messages."""


class PayloadError(ParasnakeError):
    """An object cannot be serialised, or cannot be rebuilt from its bytes.

    Attributes
    ----------
    type_name: the type of the object that was refused ("" if that is not known)
    place: where it was found, as one would write it: ``data["a"][3].lock`` ("" if not known)
    """

    def __init__(self, message: str, *, type_name: str = "", place: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.place = place


class UnreadablePayload(PayloadError):
    """The bytes arrived whole, but an object in them cannot be rebuilt on this side.

    ``__cause__`` is what the import, the name's look-up or the object's own code raised.

    Attributes
    ----------
    type_name: what should have been rebuilt: a class, or the function that rebuilds
    module: the module that it belongs to
    local_version: the version here of that module's top-level package; None if it is not
        installed, "unknown" if it is there and does not say
    """

    def __init__(
        self, *, type_name: str, module: str, local_version: str | None, reason: str
    ) -> None:
        top = module.partition(".")[0]
        here = f"{top} is not installed" if local_version is None else f"{top} {local_version}"
        if local_version == "unknown":
            here = f"the version of {top} is unknown"
        super().__init__(
            f"cannot rebuild {module}.{type_name} here ({here}): {reason}", type_name=type_name
        )
        self.module = module
        self.local_version = local_version


class JournalError(ParasnakeError):
    """The journal cannot be written any more, or cannot be read because it is damaged.

    After a write that failed, nothing is lost of what was merged: make room, start again with the
    same file.
    """


class HookError(ParasnakeError):
    """A hook on the server raised; ``__cause__`` is the user's own exception.

    Attributes
    ----------
    hook: which one: "result", for instance
    """

    def __init__(self, hook: str) -> None:
        super().__init__(f"the hook @app.{hook} raised an exception; the job has been stopped")
        self.hook = hook


class RemoteError(Exception):
    """What happened on a node, as text: the cause of a ``TaskFailed``.

    Its ``str`` is the remote traceback, or the cause of a worker's death.
    """


class TaskFailed(ParasnakeError):
    """A task has failed for good.

    ``__cause__`` is a ``RemoteError`` that holds the remote traceback.

    Attributes
    ----------
    task_id: the task's ordinal in the order of the hand-outs, from 0
    attempts: how often the task was charged with a failure of its own
    losses: on how many lost nodes it was being computed
    reason: one line: the exception, or the cause of the worker's death
    host: where the last attempt ran ("" if that is not known)
    """

    def __init__(
        self, *, task_id: int, attempts: int, losses: int, reason: str, host: str, remote: str
    ) -> None:
        where = f" on {host}" if host else ""
        tries = f"{attempts} failed attempt{'s' if attempts != 1 else ''}"
        if losses:
            tries += f" and {losses} lost node{'s' if losses != 1 else ''}"
        super().__init__(f"task {task_id} has failed after {tries}; the last one{where}: {reason}")
        self.task_id = task_id
        self.attempts = attempts
        self.losses = losses
        self.reason = reason
        self.host = host
        self.__cause__ = RemoteError(remote)


class NodeFailed(ParasnakeError):
    """A node cannot do any work: its workers do not even start.

    Attributes
    ----------
    remote: the traceback of the last worker, or ""
    """

    def __init__(self, text: str, remote: str = "") -> None:
        super().__init__(text)
        self.remote = remote


class BatchError(ParasnakeError):
    """The batch system (Slurm, PBS) does not do what it is asked for; the text has its words."""


class Interrupted(ParasnakeError):
    """SIGINT or SIGTERM ended the run.

    Attributes
    ----------
    signal_number: which signal it was
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number
        self.exit_status = 128 + signal_number
