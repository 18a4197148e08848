"""What the batch systems want to be told, and what they answer: text in, text out."""

from __future__ import annotations

import enum
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from parasnake.errors import BatchError, ConfigurationError

_ASKS_FOR_NODES = re.compile(r"\b(select|nodes|ncpus|ppn)=")
"""A user's own ``-l`` that says what a node is: ours must not contradict it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: nodes, all of one kind.

    Attributes
    ----------
    name: of the batch job
    count: how many nodes, from 1
    cpus: how many cores each; None: whatever the batch system gives
    seconds: how long each may run; None: as long as the batch system gives
    folder: where their output goes; an absolute path
    options: of the user's, for the batch system as they are
    """

    name: str
    count: int
    cpus: int | None
    seconds: int | None
    folder: Path
    options: tuple[str, ...] = ()


class State(enum.Enum):
    """What a node is at, as its batch system sees it."""

    QUEUED = enum.auto()
    RUNNING = enum.auto()
    ENDING = enum.auto()


@dataclass(frozen=True, slots=True)
class BatchJob:
    """One node as its batch system sees it.

    Attributes
    ----------
    id: for commands of the batch system
    state: what it is at
    reason: why it is queued, in the words of the batch system, or ""
    """

    id: str
    state: State
    reason: str = ""


class BatchSystem(Protocol):
    """One kind of batch system. It runs nothing itself."""

    name: str
    mark: str
    """What a line of options in a script begins with."""
    submits: str
    """The program that submits."""
    together: bool
    """Whether nodes that a server asks for are submitted many at a time."""

    def job_name(self, stem: str, suffix: str = "") -> str:
        """Return a name that it allows for jobs; all of the suffix, and what fits of the stem."""

    def options(self, request: Request) -> list[list[str]]:
        """Return the options for a request, one list for each line of the script."""

    def quote(self, word: str) -> str:
        """Write an option as a line of a script has it."""

    def prepare(self, request: Request) -> list[str]:
        """Return what the script does first, as lines of a POSIX shell."""

    def exports(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that jobs would not have by themselves."""

    def submit(self, request: Request, script: Path) -> list[str]:
        """Return the command that submits."""

    def submitted(self, output: str) -> str:
        """Return the id of the job out of what that command has written.

        Raises
        ------
        BatchError: there is none in it
        """

    def listing(self, name: str, user: str) -> list[str]:
        """Return the command that lists the jobs of a name."""

    def listed(self, name: str, output: str) -> list[BatchJob]:
        """Return what it has listed: all nodes that have not ended."""

    def cancel(self, jobs: Iterable[BatchJob]) -> list[str]:
        """Return the command that cancels these, at least one."""


class Slurm:
    """Slurm, from 20.02 on."""

    name = "slurm"
    mark = "#SBATCH"
    submits = "sbatch"
    together = True

    def job_name(self, stem: str, suffix: str = "") -> str:
        return _plain(stem) + suffix

    def options(self, request: Request) -> list[list[str]]:
        # In a file name %A and %a stand for the job and the number of the node in it.
        folder = str(request.folder).replace("%", "%%")
        lines = [
            [f"--job-name={request.name}"],
            [f"--array=1-{request.count}"],
            ["--nodes=1"],
            ["--ntasks=1"],
        ]
        if request.cpus is not None:
            lines.append([f"--cpus-per-task={request.cpus}"])
        if request.seconds is not None:
            lines.append([f"--time={hours(request.seconds)}"])
        lines += [
            [f"--output={folder}/slurm-%A-%a.out"],
            ["--open-mode=append"],
            ["--requeue"],
        ]
        return [*lines, list(request.options)] if request.options else lines

    def quote(self, word: str) -> str:
        return shlex.quote(word).replace("\\", r"\\")  # they count between quotes, too

    def prepare(self, request: Request) -> list[str]:
        return []

    def exports(self, environ: Mapping[str, str]) -> dict[str, str]:
        return {}

    def submit(self, request: Request, script: Path) -> list[str]:
        return ["sbatch", "--parsable", *request.options, str(script)]

    def submitted(self, output: str) -> str:
        # "4711", or "4711;cluster"; what sites print before is not for us.
        return _found(r"(?m)^(\d+)(?:;\S+)?$", output, self.submits)

    def listing(self, name: str, user: str) -> list[str]:
        # Text, for --json is missing in many installations and has changed with each version.
        return [
            *("squeue", "--noheader", "--array", f"--user={user}", f"--name={name}"),
            "--format=%F_%K %T %r",
        ]

    def listed(self, name: str, output: str) -> list[BatchJob]:
        jobs = []
        for line in output.splitlines():
            job, state, reason = line.split(maxsplit=2)
            if state in _SLURM_QUEUED:
                jobs.append(BatchJob(job, State.QUEUED, reason.strip("()")))
            elif state in _SLURM_RUNNING:
                jobs.append(BatchJob(job, State.RUNNING))
            elif state == "COMPLETING":
                jobs.append(BatchJob(job, State.ENDING))
        return jobs

    def cancel(self, jobs: Iterable[BatchJob]) -> list[str]:
        return ["scancel", *(job.id for job in jobs)]


_SLURM_QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED"}
_SLURM_RUNNING = {"RUNNING", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED"}


class Pbs:
    """OpenPBS, PBS Pro and Torque: what they have in common.

    Parameters
    ----------
    torque: arrays are asked for in Torque's manner
    """

    name = "pbs"
    mark = "#PBS"
    submits = "qsub"
    together = False  # what is in an array is told by each of them in another way

    def __init__(self, *, torque: bool = False) -> None:
        self._array = "-t" if torque else "-J"

    def job_name(self, stem: str, suffix: str = "") -> str:
        # 15 characters, the first of which is a letter: what all versions take.
        name = _plain(stem)
        return (name if name[0].isalpha() else f"x{name}")[: 15 - len(suffix)] + suffix

    def options(self, request: Request) -> list[list[str]]:
        lines = [["-N", request.name]]
        if request.count > 1:  # an array of one is an error
            lines.append([self._array, f"1-{request.count}"])
        if request.cpus is not None and not any(map(_ASKS_FOR_NODES.search, request.options)):
            lines.append(["-l", f"nodes=1:ppn={request.cpus}"])
        if request.seconds is not None:
            lines.append(["-l", f"walltime={hours(request.seconds)}"])
        lines += [["-j", "oe"], ["-o", "/dev/null"], ["-S", "/bin/sh"]]
        return [*lines, list(request.options)] if request.options else lines

    def quote(self, word: str) -> str:
        return shlex.quote(word)

    def prepare(self, request: Request) -> list[str]:
        # Its own files appear when a job has ended, and each system names them in another way.
        return [
            "job=${PBS_JOBID%%[!0-9]*}",
            "index=${PBS_ARRAY_INDEX:-${PBS_ARRAYID:-1}}",
            f'exec >>{shlex.quote(str(request.folder))}/"pbs-$job-$index.out" 2>&1',
        ]

    def exports(self, environ: Mapping[str, str]) -> dict[str, str]:
        # Not with -V: whoever can list jobs would see a secret key that is in the environment.
        return {
            name: value
            for name, value in environ.items()
            if name in ("LD_LIBRARY_PATH", "PYTHONPATH", "XDG_CONFIG_HOME")
            or (name.startswith("PARASNAKE_") and name != "PARASNAKE_SECRET_KEY")
        }

    def submit(self, request: Request, script: Path) -> list[str]:
        options = [word for line in self.options(request) for word in line]
        return ["qsub", *options, str(script)]

    def submitted(self, output: str) -> str:
        return _found(r"(?m)^(\d+(?:\[\])?(?:\.\S+)?)$", output, self.submits)

    def listing(self, name: str, user: str) -> list[str]:
        return ["qstat", "-f"]  # the lists in columns cut names off

    def listed(self, name: str, output: str) -> list[BatchJob]:
        jobs = []
        for block in re.split(r"(?m)^Job Id:", output)[1:]:
            job, _, rest = block.partition("\n")
            facts = dict(re.findall(r"(?m)^\s+(\w+) = (.*)$", rest))
            state = facts.get("job_state", "")
            if facts.get("Job_Name") == name and state not in _PBS_ENDED:
                jobs.append(BatchJob(job.strip(), _PBS_STATES.get(state, State.QUEUED)))
        return jobs

    def cancel(self, jobs: Iterable[BatchJob]) -> list[str]:
        return ["qdel", *(job.id for job in jobs)]


_PBS_STATES = {
    **dict.fromkeys(("R", "B", "S", "U"), State.RUNNING),
    "E": State.ENDING,
}
_PBS_ENDED = {"C", "F", "X"}


def find(name: str, version: str = "") -> BatchSystem:
    """Return the batch system of a name.

    Parameters
    ----------
    version: what its ``submits`` answers to ``--version``, if that is known

    Raises
    ------
    ConfigurationError: there is none of this name
    """
    if name == "slurm":
        return Slurm()
    if name == "pbs":
        return Pbs(torque=version.startswith("Version:"))
    raise ConfigurationError(f"submit = {name!r}; allowed: 'slurm' or 'pbs'")


def hours(seconds: int) -> str:
    """Write a time as both systems read it: ``8:00:00``."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _plain(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", stem) or "nodes"


def _found(pattern: str, output: str, program: str) -> str:
    match = re.search(pattern, output)
    if match is None:
        raise BatchError(f"{program} has answered with no job id: {output.strip()!r}")
    return match[1]
