"""The messages between server, agent and worker, and their bytes.

A message is a header (kind, one byte; length of what follows, eight bytes, big-endian), fields of
fixed size, texts (each four bytes of length and UTF-8), and for some kinds a payload, which is the
rest, or a run: many small payloads, each with a few numbers. ``LAYOUTS`` below is the whole format.
Server and agent exchange messages inside the records of a session, agent and worker exchange the
same messages in clear over a socket pair.

Of ``Hello`` the first three fields never change, so that any two versions can refuse each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from struct import Struct
from typing import Any, NamedTuple

from ..errors import MessageError
from .ids import Attempt, JobId, NodeKey, TaskId
from .memory import allocate

PROTOCOL_VERSION = 1

Buffer = bytes | bytearray | memoryview
Parts = tuple[Buffer, ...]
"""A payload: pieces whose concatenation counts. What was received has one piece, or none."""


class FailureKind(IntEnum):
    """What went wrong with a task on its worker."""

    EXCEPTION = 0
    """``process`` raised."""
    UNREADABLE_DATA = 1
    """The data could not be rebuilt on the node."""
    UNPICKLABLE_RESULT = 2
    """The result could not be serialised."""


class RefusalKind(IntEnum):
    """Why the server does not take an agent."""

    PROTOCOL = 0
    APP = 1


class QuitKind(IntEnum):
    """Why the server sends its agents home."""

    DONE = 0
    STOPPED = 1
    """By a signal, or by the program."""
    FAILED = 2
    OUT_OF_TIME = 3
    """Not all of them: this one has too little time left for any task."""


class Hello(NamedTuple):
    """Agent to server, first. ``protocol``, ``pid`` and ``library`` are frozen for ever.

    ``job`` is the id of the job, in hexadecimal, that an agent has worked for whose connection broke.
    """

    protocol: int
    pid: int
    library: str
    python: str
    app: str
    digest: str
    host: str
    job: str = ""


class AskInit(NamedTuple):
    """Agent to server: this node needs init data of its own."""

    node: NodeKey


class Ready(NamedTuple):
    """Worker to agent to server: this node takes tasks from now on."""

    node: NodeKey


class Result(NamedTuple):
    """Worker to agent to server. ``seconds`` is the time spent in ``process``."""

    node: NodeKey
    task: TaskId
    attempt: Attempt
    seconds: float
    payload: Parts


class Results(NamedTuple):
    """Agent to server: what ``Result`` says, of several small results of one node."""

    node: NodeKey
    run: Sequence[tuple[TaskId, Attempt, float, Parts]]
    """Task, attempt, seconds, payload."""


class Failure(NamedTuple):
    """Worker to agent to server: this attempt gave no result.

    ``module`` is the one that the node lacks or has in another version, where that is the reason.
    """

    node: NodeKey
    task: TaskId
    attempt: Attempt
    seconds: float
    kind: int
    reason: str
    remote: str
    module: str


class Held(NamedTuple):
    """Agent to server, after its return and before ``Ready``: this node has this task.

    ``digest`` is that of the data. If it is ``finished``, the agent has the result and keeps it for
    a ``Want``; else the answer will come. A failure does not outlive its connection: it may have been
    charged, and must not be charged twice.
    """

    node: NodeKey
    task: TaskId
    attempt: Attempt
    digest: bytes
    finished: bool


class Dropped(NamedTuple):
    """Worker to agent to server: this attempt was cancelled before it had begun."""

    node: NodeKey
    task: TaskId
    attempt: Attempt


class TimeLeft(NamedTuple):
    """Agent to server: it has to go after so many seconds; said again when that has changed."""

    seconds: float


class NodeGone(NamedTuple):
    """Agent to server: a worker has ended; if it ``died``, ``reason`` is the cause of its death.

    Else it was ended because a ``Cancel`` asked for that. If it died ``busy``, it was at the first task
    that it had not answered. ``output`` is what it printed last.
    """

    node: NodeKey
    died: bool
    busy: bool
    reason: str
    output: str


class NodeBroken(NamedTuple):
    """Worker to agent: it cannot begin (``node_init`` raised, the script cannot be imported)."""

    node: NodeKey
    reason: str
    remote: str


class Heartbeat(NamedTuple):
    """Agent to server: alive, though there was nothing to say."""


class Goodbye(NamedTuple):
    """Agent to server: leaving; what was running is handed back. ``remote``: a traceback, or empty."""

    reason: str
    remote: str


class Welcome(NamedTuple):
    """Server to agent: in. ``payload`` is the init data, unless each node has its own.

    ``seed`` is what the seeds of tasks are made from (``seeds.task_seed``), ``task_timeout`` how many
    seconds a task may take, 0 if there is no limit.
    """

    job: JobId
    heartbeat_interval: float
    init_per_node: bool
    seed: bytes
    task_timeout: float
    server_python: str
    digest: str
    payload: Parts


class Refused(NamedTuple):
    """Server to agent: not in, and trying again would not help."""

    kind: int
    reason: str


class Init(NamedTuple):
    """Server to agent to worker: the init data of one node, and the seed of the job."""

    node: NodeKey
    seed: bytes
    payload: Parts


class Task(NamedTuple):
    """Server to agent to worker: compute this."""

    node: NodeKey
    task: TaskId
    attempt: Attempt
    payload: Parts


class Tasks(NamedTuple):
    """Server to agent to worker: compute these, each of them small, in this order."""

    node: NodeKey
    run: Sequence[tuple[TaskId, Attempt, Parts]]
    """Task, attempt, payload."""


class Want(NamedTuple):
    """Server to agent: send the answer to this attempt, which you said that you hold."""

    node: NodeKey
    task: TaskId
    attempt: Attempt


class Taken(NamedTuple):
    """Server to agent: of the answers on this connection so many, from the first, are safe here."""

    answers: int


class Pace(NamedTuple):
    """Server to agent to worker: so fast do results get to the server, see ``linkspeed``.

    By that a worker decides whether to compress them; 0.0: always, where they become smaller.
    """

    bytes_per_second: float


class Cancel(NamedTuple):
    """Server to agent: the answer to this attempt is no longer wanted; its worker may be ended.

    Agent to worker: do not begin with it.
    """

    node: NodeKey
    task: TaskId
    attempt: Attempt


class Quit(NamedTuple):
    """Server to agent: leave."""

    kind: int
    reason: str


Message = (
    Hello
    | AskInit
    | Ready
    | Result
    | Results
    | Failure
    | Held
    | Dropped
    | TimeLeft
    | NodeGone
    | NodeBroken
    | Heartbeat
    | Goodbye
    | Welcome
    | Refused
    | Init
    | Task
    | Tasks
    | Want
    | Taken
    | Pace
    | Cancel
    | Quit
)


class Layout:
    """How one kind of message is written: fixed fields first, then texts, then the payload or a run.

    ``run`` are the fields of one item of a run; the last of them is the length of its payload.
    """

    def __init__(
        self, kind: int, fixed: str, *, texts: int = 0, payload: bool = False, run: str = ""
    ) -> None:
        self.kind = kind
        self.struct = Struct(">" + fixed)
        self.head = Struct(">BQ" + fixed)
        fields = self.struct.unpack(bytes(self.struct.size))
        self.fixed_fields = len(fields)
        self.times = [index for index, value in enumerate(fields) if isinstance(value, float)]
        self.texts = texts
        self.payload = payload
        self.run = Struct(">" + run) if run else None
        self.run_has_times = "d" in run


LAYOUTS: dict[type[Message], Layout] = {
    Hello: Layout(1, "HI", texts=6),
    AskInit: Layout(2, "16s"),
    Ready: Layout(3, "16s"),
    Result: Layout(4, "16sQId", payload=True),
    Failure: Layout(5, "16sQIdB", texts=3),
    NodeGone: Layout(6, "16s??", texts=2),
    NodeBroken: Layout(7, "16s", texts=2),
    Heartbeat: Layout(8, ""),
    Goodbye: Layout(9, "", texts=2),
    Held: Layout(10, "16sQI16s?"),
    Results: Layout(11, "16s", run="QIdI"),
    Dropped: Layout(12, "16sQI"),
    TimeLeft: Layout(13, "d"),
    Welcome: Layout(64, "16sd?16sd", texts=2, payload=True),
    Refused: Layout(65, "B", texts=1),
    Init: Layout(66, "16s16s", payload=True),
    Task: Layout(67, "16sQI", payload=True),
    Cancel: Layout(68, "16sQI"),
    Quit: Layout(69, "B", texts=1),
    Want: Layout(70, "16sQI"),
    Taken: Layout(71, "Q"),
    Tasks: Layout(72, "16s", run="QII"),
    Pace: Layout(74, "d"),
}
Layouts = Mapping[type[Any], Layout]
"""How all kinds are written of what else is kept or sent in the manner of messages."""


def _make(kind: type[Any], *fields: object) -> Any:
    construct: Callable[..., Any] = kind
    return construct(*fields)


FROM_AGENT = frozenset(
    {
        *(Hello, TimeLeft, AskInit, Held, Ready, Result, Results, Failure, Dropped, NodeGone),
        *(Heartbeat, Goodbye),
    }
)
FROM_SERVER = frozenset({Welcome, Refused, Init, Task, Tasks, Want, Taken, Pace, Cancel, Quit})
FROM_WORKER = frozenset({Ready, Result, Failure, Dropped, NodeBroken})
TO_WORKER = frozenset({Init, Pace, Task, Tasks, Cancel})

HEADER = Struct(">BQ")
_TEXT_LENGTH = _COUNT = Struct(">I")
MAX_TEXT = 1 << 20
"""Bytes of texts in one message; payloads have no limit but memory."""
TEXT_LIMIT = MAX_TEXT // 8
"""Bytes of one text; the middle of a longer one is left out."""
SMALL_PAYLOAD = 1 << 12
"""A payload of up to this many bytes travels together with others."""
RUN_BYTES = 1 << 15
"""So many bytes of payloads make a run long enough."""
MAX_PAYLOAD = 1 << 40
"""Memory for a payload that claims more is asked for at once: nobody waits for what cannot come."""
OWN_BUFFER = 1 << 16
"""A payload that makes a body longer than this is sent from where it is, and received the same way."""


_RESULT, _TASK = LAYOUTS[Result], LAYOUTS[Task]
_RESULT_KIND, _RESULT_BYTES, _pack_result = _RESULT.kind, _RESULT.struct.size, _RESULT.head.pack
_TASK_KIND, _TASK_BYTES, _pack_task = _TASK.kind, _TASK.struct.size, _TASK.head.pack


def encode(message: tuple[Any, ...], layouts: Layouts = LAYOUTS) -> list[Buffer]:
    """Return the bytes of a message as pieces to be sent one after another.

    The first has all but a long payload, which is not copied: its pieces follow as they are.
    """
    if type(message) is Result and len(message.payload) == 1:  # nearly all of a worker's are
        node, task, attempt, seconds, (part,) = message
        length = _RESULT_BYTES + len(part)
        head = _pack_result(_RESULT_KIND, length, node, task, attempt, seconds)
        return [head + part] if length <= OWN_BUFFER else [head, part]
    if type(message) is Task and len(message.payload) == 1:  # somebody may wait for it
        node, task, attempt, (part,) = message
        length = _TASK_BYTES + len(part)
        head = _pack_task(_TASK_KIND, length, node, task, attempt)
        return [head + part] if length <= OWN_BUFFER else [head, part]
    layout = layouts[type(message)]
    fixed = message[: layout.fixed_fields]
    if layout.run is not None:
        run = _join_run(message[-1], layout)
        return [layout.head.pack(layout.kind, layout.struct.size + len(run), *fixed) + run]
    texts = _join_texts(message[layout.fixed_fields :][: layout.texts]) if layout.texts else b""
    payload: Parts = message[-1] if layout.payload else ()
    length = layout.struct.size + len(texts) + sum(map(len, payload))
    head = layout.head.pack(layout.kind, length, *fixed) + texts
    if length <= OWN_BUFFER:
        return [b"".join((head, *payload))]
    return [head, *payload]


def _join_run(items: Sequence[tuple[Any, ...]], layout: Layout) -> bytes:
    assert layout.run is not None
    pack = layout.run.pack
    if layout.run_has_times:
        table = [pack(task, attempt, s, len(data[0])) for task, attempt, s, data in items]
    else:
        table = [pack(task, attempt, len(data[0])) for task, attempt, data in items]
    return b"".join([_COUNT.pack(len(items)), *table, *[item[-1][0] for item in items]])


def _split_run(kind: type[Any], data: bytes, layout: Layout) -> list[tuple[Any, ...]]:
    """Return the items of a run, each with its payload in the place of the length of that."""
    fields = layout.run
    assert fields is not None
    if len(data) < _COUNT.size:
        raise MessageError(f"a {kind.__name__} message ends inside its run")
    (count,) = _COUNT.unpack_from(data)
    end = _COUNT.size + count * fields.size
    if end > len(data):
        raise MessageError(f"a {kind.__name__} message ends inside its run")
    rows = fields.iter_unpack(data[_COUNT.size : end])
    items: list[tuple[Any, ...]] = []
    # What is taken apart by name costs half of what a starred rest costs, and this is done most often.
    if layout.run_has_times:
        for task, attempt, seconds, length in rows:
            if not 0 <= seconds < math.inf:
                raise MessageError(f"a {kind.__name__} message has a time that cannot be")
            start, end = end, end + length
            items.append((task, attempt, seconds, (data[start:end],)))
    else:
        for task, attempt, length in rows:
            start, end = end, end + length
            items.append((task, attempt, (data[start:end],)))
    if end != len(data):
        raise MessageError(f"the payloads of a {kind.__name__} message are not as long as it says")
    return items


def _join_texts(texts: Sequence[object]) -> bytes:
    pieces = []
    for text in texts:
        encoded = _shortened(str(text).encode("utf-8", "backslashreplace"))
        pieces += [_TEXT_LENGTH.pack(len(encoded)), encoded]
    return b"".join(pieces)


def _shortened(text: bytes) -> bytes:
    if len(text) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2 - 50
    return b"%b\n[... %d bytes left out ...]\n%b" % (
        text[:half],
        len(text) - 2 * half,
        text[-half:],
    )


def _split_texts(data: memoryview, count: int) -> tuple[list[str], int]:
    """Return the first ``count`` texts and where they end."""
    texts: list[str] = []
    position = 0
    for _ in range(count):
        start = position + _TEXT_LENGTH.size
        if len(data) < start:
            raise MessageError("a message ends inside its texts")
        (length,) = _TEXT_LENGTH.unpack_from(data, position)
        position = start + length
        if len(data) < position:
            raise MessageError("a message ends inside its texts")
        texts.append(str(data[start:position], "utf-8", "replace"))
    return texts, position


def decode(kind: type[Any], body: memoryview, layouts: Layouts = LAYOUTS) -> Any:
    """Return the message whose bytes after the header are ``body``.

    Raises ``MessageError`` if it is too short or too long, or has a time that is no time.
    """
    layout = layouts[kind]
    size = layout.struct.size
    if len(body) < size:
        raise MessageError(f"a {kind.__name__} message is too short")
    fixed = layout.struct.unpack_from(body)
    for index in layout.times:
        if not 0 <= fixed[index] < math.inf:
            raise MessageError(f"a {kind.__name__} message has a time that cannot be")
    rest = body[size:]
    if layout.payload and not layout.texts:
        return tuple.__new__(kind, (*fixed, (bytes(rest),) if len(rest) else ()))
    fields = list(fixed)
    if kind is Hello and fields[0] != PROTOCOL_VERSION:
        return _make(Hello, *fields, *_split_texts(rest, 1)[0], "", "", "", "", "")
    if layout.texts:
        texts, end = _split_texts(rest, layout.texts)
        fields += texts
        rest = rest[end:]
    if layout.run is not None:
        fields.append(_split_run(kind, bytes(rest), layout))
    elif layout.payload:
        fields.append((bytes(rest),) if len(rest) else ())
    elif len(rest):
        raise MessageError(f"a {kind.__name__} message is too long")
    return _make(kind, *fields)


class MessageReader:
    """Puts messages together from a stream of bytes, however it is cut.

    Parameters
    ----------
    allowed: the kinds that may come from this side
    layouts: how they are written
    apart: long payloads come by another way, and only through ``target``

    Bytes come in by ``feed``. While a long payload is being received, ``target`` is its unfilled
    rest: fill some of it from the left and tell by ``filled``, which spares a copy. Both return the
    messages that were completed by it, in order, and raise ``MessageError`` for what is no message;
    then the reader must not be used any more.
    """

    def __init__(
        self,
        allowed: frozenset[type[Any]],
        layouts: Layouts = LAYOUTS,
        *,
        apart: bool = False,
    ) -> None:
        self._layouts = layouts
        self._apart = apart
        self._allowed = {layouts[kind].kind: kind for kind in allowed}
        self._rest = bytearray()
        self._long: _LongMessage | None = None

    @property
    def unfinished(self) -> bool:
        """Whether a message has begun that has not ended."""
        return bool(self._rest) or self._long is not None

    @property
    def in_payload(self) -> bool:
        """Whether the next bytes are those of a long payload."""
        return self._long is not None

    @property
    def target(self) -> memoryview | None:
        """Where the next bytes belong, if a long payload is being received."""
        return self._long.free if self._long else None

    def filled(self, count: int) -> list[Any]:
        """Take note that the first ``count`` bytes of ``target`` have been filled."""
        long = self._long
        assert long is not None
        if not long.filled(count):
            return []
        self._long = None
        return [long.finish(), *self.feed(b"")] if self._rest else [long.finish()]

    def feed(self, data: Buffer) -> list[Any]:
        """Take the next bytes of the stream."""
        messages: list[Any] = []
        view = memoryview(data)
        if self._long:
            free = self._long.free
            count = min(len(view), len(free))
            free[:count] = view[:count]
            messages += self.filled(count)
            view = view[count:]
        if self._rest:
            self._rest += view
            view = memoryview(bytes(self._rest))
            self._rest.clear()
        used = self._parse(view, messages)
        if used < len(view):
            self._rest += view[used:]
        return messages

    def _parse(self, view: memoryview, messages: list[Any]) -> int:
        """Append the complete messages in ``view``; return how many bytes they took."""
        position, end = 0, len(view)
        while end - position >= HEADER.size:
            code, length = HEADER.unpack_from(view, position)
            kind = self._allowed.get(code)
            if kind is None:
                raise MessageError(f"a message of kind {code} may not come from this side")
            start = position + HEADER.size
            if length > OWN_BUFFER and self._layouts[kind].payload:
                taken = self._begin_long(kind, length, view[start:], messages)
                if not taken:
                    break
                position = start + taken
                if self._long:
                    break
                continue
            if length > MAX_TEXT:
                raise MessageError(f"a {kind.__name__} message claims {length} bytes")
            if end - start < length:
                break
            messages.append(decode(kind, view[start : start + length], self._layouts))
            position = start + length
        return position

    def _begin_long(
        self, kind: type[Any], length: int, body: memoryview, messages: list[Any]
    ) -> int:
        """Begin a long payload once the fields before it are here; return the bytes taken."""
        layout = self._layouts[kind]
        size = layout.struct.size
        if len(body) < (OWN_BUFFER if layout.texts else size):  # the texts must end in there
            return 0
        if layout.texts:
            size += _split_texts(body[size:OWN_BUFFER], layout.texts)[1]
        head = decode(kind, body[:size], self._layouts)
        start = body[size : size if self._apart else length]
        self._long = _LongMessage(kind, head, length - size, start)
        if size + len(start) == length:
            messages += self.filled(0)
        return size + len(start)


class AnswerReader(MessageReader):
    """Reads what a worker writes; small results that come at one time come out as ``Results``."""

    def __init__(self, *, apart: bool = False) -> None:
        super().__init__(FROM_WORKER, apart=apart)

    def _parse(self, view: memoryview, messages: list[Any]) -> int:
        used, end = 0, len(view)
        while used < end and (count := _gather(view[used:], messages)):
            used += count
        return used + super()._parse(view[used:], messages) if used < end else used


def _gather(view: memoryview, messages: list[Any]) -> int:
    """Append the small results with which ``view`` begins, as one message.

    Returns how many bytes they took.
    """
    unpack, head_bytes, header_bytes = _RESULT.head.unpack_from, _RESULT.head.size, HEADER.size
    least, most, inf = _RESULT_BYTES, _RESULT_BYTES + SMALL_PAYLOAD, math.inf
    data = bytes(view[:RUN_BYTES])
    run: list[tuple[TaskId, Attempt, float, Parts]] = []
    end, last, node = 0, len(data) - head_bytes, None
    while end <= last:
        kind, length, worker, task, attempt, seconds = unpack(data, end)
        start, stop = end + head_bytes, end + header_bytes + length
        if kind != _RESULT_KIND or not least < length <= most or stop > len(data):
            break
        if worker != node:
            if node is not None:
                break
            node = worker
        if not 0 <= seconds < inf:
            raise MessageError("a Result message has a time that cannot be")
        run.append((task, attempt, seconds, (data[start:stop],)))
        end = stop
    if node is not None:
        messages.append(Results(node, run) if len(run) > 1 else Result(node, *run[0]))
    return end


class _LongMessage:
    """A message whose payload is still being received.

    Memory for it is taken when more of it comes than its start: until then that of the message before
    it may be free again.
    """

    def __init__(
        self, kind: type[Any], head: tuple[Any, ...], length: int, start: memoryview
    ) -> None:
        self._kind = kind
        self._head = head
        self._length = length
        self._filled = len(start)
        self._start = bytes(start) if self._filled < length else start
        self._buffer: memoryview | None = None
        if length > MAX_PAYLOAD:
            self._memory()

    @property
    def free(self) -> memoryview:
        """What has not been filled."""
        return self._memory()[self._filled :]

    def filled(self, count: int) -> bool:
        """Take note that so many more bytes have been filled; true if that is all."""
        self._filled += count
        return self._filled == self._length

    def finish(self) -> Any:
        return _make(self._kind, *self._head[:-1], (self._memory(),))

    def _memory(self) -> memoryview:
        if self._buffer is None:
            try:
                self._buffer = allocate(self._length)
            except MemoryError as error:
                text = f"a message claims {self._length} bytes: no memory for it"
                raise MessageError(text) from error
            self._buffer[: len(self._start)] = self._start
            self._start = b""
        return self._buffer
