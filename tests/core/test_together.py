"""A whole job in memory: a farm, crews and their workers, with real sessions and no sockets between."""

from __future__ import annotations

from collections import Counter
from itertools import repeat

from wire import KEY, deliver, output

from parasnake.core.crew import Away, Crew, Joined, Leave, StartWorker, ToServer, ToWorker
from parasnake.core.crew import Step as CrewStep
from parasnake.core.farm import (
    AgentJoined,
    AgentLeft,
    CallInit,
    Farm,
    Job,
    NodeJoined,
    Send,
)
from parasnake.core.farm import Step as FarmStep
from parasnake.core.ids import JobId, NodeKey, PeerId
from parasnake.core.messages import (
    PROTOCOL_VERSION,
    Hello,
    Init,
    Message,
    QuitKind,
    Ready,
    Result,
    Task,
)
from parasnake.core.session import Session
from parasnake.core.tasks import AskData, Merge, Policy, Retry, TellTimeout

JOB = Job(
    id=JobId(bytes(16)),
    app="squares",
    digest="",
    library="0.2.0",
    python="3.11.7",
    heartbeat_timeout=30.0,
    init_per_node=True,
    has_init=True,
    seed=bytes(16),
    task_timeout=0.0,
    policy=Policy(),
)


class Server:
    """What the server's shell does, with squares to be computed."""

    def __init__(self, tasks: int) -> None:
        self.farm = Farm(JOB)
        self.sessions: dict[PeerId, Session] = {}
        self.numbers = iter(range(tasks))
        self.squares: dict[int, int] = {}
        self.told: Counter[str] = Counter()
        self.done = False

    def accept(self, peer: PeerId) -> None:
        ephemeral = bytes([100 + peer]) * 32
        self.sessions[peer] = Session(initiator=False, psk=KEY, ephemeral=ephemeral)

    def received(self, peer: PeerId, data: bytes) -> None:
        """Take bytes, one by one, and what they mean."""
        session = self.sessions.get(peer)
        if session is None:
            return  # the server has closed this connection
        known = session.authenticated
        messages = deliver(session, data, repeat(1))
        if session.authenticated and not known:
            self.farm.connected(peer, f"address of {peer}", now=0.0)
        for message in messages:
            self.farm.message(peer, message)

    def work(self) -> None:
        while (step := self.farm.next_step()) is not None:
            self.perform(step)
            if self.farm.scheduler.complete and not self.done:
                self.done = True
                assert self.farm.quit(QuitKind.DONE, "") == 0

    def perform(self, step: FarmStep) -> None:
        self.told[type(step).__name__] += 1
        match step:
            case Send(peer, message):
                self.sessions[peer].send(message)
            case CallInit(peer, node):
                assert node is not None
                self.farm.init_given(peer, node, (b"init data of ", node))
            case AskData():
                number = next(self.numbers, None)
                if number is None:
                    self.farm.scheduler.exhaust()
                else:
                    for send in self.farm.give([((str(number).encode(),), number)]):
                        self.perform(send)
            case Merge(task, _, _, payload):
                root, square = map(int, b"".join(payload).split())
                assert root not in self.squares
                self.squares[root] = square
                self.farm.scheduler.settled(task)
            case AgentJoined() | NodeJoined() | AgentLeft() | TellTimeout() | Retry():
                pass
            case _:
                raise AssertionError(f"nothing was to be done like {step}")


class Agent:
    """What the agent's shell does; its workers compute at once."""

    def __init__(self, peer: PeerId, workers: int) -> None:
        hello = Hello(PROTOCOL_VERSION, 1, "0.2.0", "3.11.7", "squares", "", f"host{peer}")
        self.peer = peer
        self.crew = Crew(hello, workers)
        self.session = Session(initiator=True, psk=KEY, ephemeral=bytes([peer]) * 32)
        self.left: Leave | None = None
        self.computed = 0
        self.breaks_after: int | None = None
        self.late: list[tuple[NodeKey, Message]] = []  # answers that are not ready yet

    def reconnect(self, peer: PeerId) -> None:
        """Notice that the connection is gone, finish what is running, and come back on another."""
        self.crew.lost_server("cut cable")
        for node, message in self.late:
            self.crew.worker_message(node, message)
        self.late.clear()
        self.work()
        self.breaks_after = None
        self.peer = peer
        self.session = Session(initiator=True, psk=KEY, ephemeral=bytes([peer]) * 32)
        self.crew.connected()

    def received(self, data: bytes) -> None:
        for message in deliver(self.session, data, repeat(1)):
            self.crew.message(message)

    def work(self) -> None:
        while self.left is None and (step := self.crew.next_step()) is not None:
            self.perform(step)

    def perform(self, step: CrewStep) -> None:
        match step:
            case ToServer(message):
                self.session.send(message)
            case StartWorker(slot):
                self.crew.started(slot, NodeKey(bytes([self.peer, slot]) * 8))
            case ToWorker(node, message):
                self.worker(node, message)
            case Leave():
                self.left = step
            case Joined(differences):
                assert differences == []
            case Away(reason):
                assert reason == "cut cable"
            case _:
                raise AssertionError(f"nothing was to be done like {step}")

    def worker(self, node: NodeKey, message: Message) -> None:
        match message:
            case Init(_, _, payload):
                assert b"".join(payload) == b"init data of " + node
                self.crew.worker_message(node, Ready(node))
            case Task(_, task, attempt, payload):
                number = int(b"".join(payload))
                result = f"{number} {number**2}".encode()
                answer = Result(node, task, attempt, 1.0, (result,))
                if self.computed == self.breaks_after:
                    self.late.append((node, answer))
                    return
                self.computed += 1
                self.crew.worker_message(node, answer)


def run(server: Server, agents: list[Agent]) -> None:
    """Carry bytes between the server and its agents until nobody has anything to say."""
    for agent in agents:
        server.accept(agent.peer)
    talking = True
    while talking:
        talking = False
        for agent in agents:
            agent.work()
            said = output(agent.session)
            server.received(agent.peer, said)
            server.work()
            answer = output(server.sessions[agent.peer])
            agent.received(answer)
            talking |= bool(said or answer)


def test_two_agents_share_a_job_and_are_sent_home() -> None:
    server, one, two = Server(tasks=10), Agent(PeerId(1), 1), Agent(PeerId(2), 2)
    run(server, [one, two])
    assert server.squares == {number: number**2 for number in range(10)}
    assert one.computed + two.computed == 10
    assert one.computed > 0 < two.computed
    assert one.left == two.left == Leave("the job is done", None)
    assert server.told == {
        "AgentJoined": 2,
        "CallInit": 3,
        "NodeJoined": 3,
        "AskData": 11,
        "Merge": 10,
        "Send": 2 + 3 + 10 + 2,  # Welcome, Init, Task, Quit
    }


def test_one_agent_vanishes_and_the_other_computes_its_task() -> None:
    server, one, two = Server(tasks=10), Agent(PeerId(1), 1), Agent(PeerId(2), 2)
    two.breaks_after = 3
    run(server, [one, two])
    assert not server.done
    assert server.farm.scheduler.running == 2

    server.farm.gone(two.peer, "cut cable")
    run_on(server, one)
    assert server.squares == {number: number**2 for number in range(10)}
    assert two.computed == 3
    assert one.computed == 7
    assert two.left is None
    assert one.left == Leave("the job is done", None)
    assert server.told == {
        "AgentJoined": 2,
        "CallInit": 3,
        "NodeJoined": 3,
        "AskData": 11,
        "Merge": 10,
        "AgentLeft": 1,
        "Retry": 2,
        "TellTimeout": 2,
        "Send": 2 + 3 + 12 + 1,
    }


def run_on(server: Server, agent: Agent) -> None:
    """As ``run``, with the one agent that is left."""
    while agent.left is None:
        server.work()
        agent.received(output(server.sessions[agent.peer]))
        agent.work()
        server.received(agent.peer, output(agent.session))


def test_an_agent_comes_back_with_what_it_computed_meanwhile() -> None:
    server, one = Server(tasks=10), Agent(PeerId(1), 2)
    one.breaks_after = 3
    run(server, [one])
    assert len(one.late) == 2
    server.farm.gone(one.peer, "cut cable")
    server.work()
    one.reconnect(PeerId(7))
    run(server, [one])
    assert server.squares == {number: number**2 for number in range(10)}
    assert one.computed == 8, "two more were finished without a server, and none was computed twice"
    assert one.left == Leave("the job is done", None)
    assert server.told["CallInit"] == 2, "its workers have their init data"
    assert server.told["Retry"] == 2
