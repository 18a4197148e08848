"""Nodes that a real Slurm starts, by sbatch and by the qsub that comes with it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import wait_until
from programs import Program, environment
from test_examples import pixels, plain_mandelbrot

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "tests" / "scripts" / "gated.py"
START = Path(os.environ.get("TEST_SLURM", ROOT.parent / "shared" / "slurm" / "start-slurm"))
"""Starts a Slurm with four nodes of four cores; ``stop-slurm`` beside it ends it."""
SIZE = 48

pytestmark = pytest.mark.once


def answers() -> bool:
    """Whether there is a Slurm with such nodes already."""
    if shutil.which("sbatch") is None:
        return False
    nodes = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--states=idle,mixed,allocated", "--format=%c"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return nodes.returncode == 0 and nodes.stdout.split() == ["4"] * 4


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """A Slurm with four nodes: one that is there, or one for these tests."""
    if answers():
        yield
        return
    if not START.exists():
        pytest.skip(f"there is no Slurm with four nodes, and no {START} to start one")
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can start a Slurm")
    started = subprocess.run(
        [START], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=240
    )
    if started.returncode:
        pytest.skip(f"no Slurm could be started: {started.stderr.strip().splitlines()[-1:]}")
    yield
    subprocess.run([START.with_name("stop-slurm")], check=True, capture_output=True, timeout=120)


def call(*command: str) -> str:
    """Run a command and return what it writes."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Cluster:
    """The batch jobs that were started in a folder, and the programs there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = environment(folder)
        self.environ.pop("PARASNAKE_SECRET_KEY")

    def jobs(self) -> dict[str, tuple[str, str]]:
        """State and node of all batch jobs, by the id of the job and the number in it."""
        lines = call("squeue", "--noheader", "--array", "--format=%F_%K %T %N|%Z").splitlines()
        found = (line.partition("|") for line in lines)
        words = [facts.split() for facts, _, folder in found if folder == str(self.folder)]
        return {job: (state, node[0] if node else "") for job, state, *node in words}

    def count(self, *states: str) -> int:
        """How many are in these states."""
        return sum(state in states for state, _ in self.jobs().values())

    def program(self, *options: str) -> Program:
        """The script, as its user starts it."""
        return Program(SCRIPT, options, self.folder, environ=self.environ)

    def run(self, *options: str) -> str:
        """Run it to its end and return what it has written to standard output."""
        with self.program(*options) as program:
            assert program.wait(120) == 0, program.err
            return program.out

    def open_gate(self) -> None:
        """Let nodes compute."""
        (self.folder / "go").touch()

    def check_image(self) -> None:
        """See that it is right, to the bit."""
        assert pixels(self.folder / "mandelbrot.png") == plain_mandelbrot(SIZE)

    def log(self) -> str:
        """What all nodes have written."""
        return "".join(path.read_text() for path in self.folder.glob("gated.nodes/*.out"))

    def cancel_all(self) -> None:
        """Leave none behind."""
        if ids := " ".join({job.partition("_")[0] for job in self.jobs()}):
            call("scancel", *ids.split())


@pytest.fixture
def cluster(slurm: None, tmp_path: Path) -> Iterator[Cluster]:
    """A folder that is not easy to write, with no batch jobs left at its end."""
    folder = tmp_path / "it's a job"
    folder.mkdir()
    cluster = Cluster(folder)
    yield cluster
    cluster.cancel_all()


def agents(program: Program) -> int:
    """How many agents are at a server just now."""
    came = len(re.findall(r"\) (?:joined|is back)", program.err))
    return came - len(re.findall(r"lost .* \(pid|\) left: ", program.err))


@contextmanager
def set_down(node: str) -> Iterator[None]:
    """A node of the cluster, taken away by its administrator."""
    call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    try:
        yield
    finally:  # it may have come back by itself
        subprocess.run(
            ["scontrol", "update", f"NodeName={node}", "State=RESUME"],
            capture_output=True, check=False, timeout=60,
        )  # fmt: skip


def test_whatever_slurm_does_to_nodes_costs_only_time(cluster: Cluster) -> None:
    with cluster.program("--server", "--access", "gated.access", "--size", str(SIZE)) as server:
        node_options = ("--size", str(SIZE), "--submit", "slurm", "--nodes", "4", "--workers", "4")
        job = cluster.run(*node_options, "--time", "10m", "--", "--comment", "it's mine").strip()
        wait_until(lambda: agents(server) == 4, 120)
        assert {node for _, node in cluster.jobs().values()} == {"n1", "n2", "n3", "n4"}
        wait_until(lambda: cluster.log().count("with 4 workers") == 4)

        call("scancel", f"{job}_1")
        wait_until(lambda: agents(server) == 3, 60)
        call("scontrol", "update", f"JobId={job}_2", "EndTime=now+1")
        with set_down(cluster.jobs()[f"{job}_3"][1]):
            wait_until(lambda: agents(server) == 1, 120)
        cluster.open_gate()
        assert server.wait(60) == 0, server.err
        assert "0 retries" in server.err
    cluster.check_image()


def test_a_server_feeds_itself_also_after_it_was_killed_and_leaves_nothing_behind(
    cluster: Cluster,
) -> None:
    options = ["--server", "--size", str(SIZE), "--journal", "gated.journal"]
    options += ["--submit", "slurm", "--max-nodes", "5", "--workers", "4", "--time", "10m"]
    with cluster.program(*options) as server:
        wait_until(lambda: agents(server) == 4, 120)
        assert cluster.count("PENDING") == 1
        first = cluster.jobs()
        server.kill()
        server.wait()
    running = next(job for job, (state, _) in first.items() if state == "RUNNING")
    with cluster.program(*options) as server:
        wait_until(lambda: agents(server) == 4, 120)
        assert cluster.jobs().keys() == first.keys(), "it has found them again"
        call("scancel", running)
        server.wait_for("submitted a node", 120)
        wait_until(lambda: cluster.jobs().keys() - first.keys(), 60)
        assert len(cluster.jobs()) <= 6, "the one that was cancelled may be ending"
        cluster.open_gate()
        assert server.wait(120) == 0, server.err
    assert not cluster.jobs()
    cluster.check_image()


def test_a_server_that_is_interrupted_leaves_nothing_behind(cluster: Cluster) -> None:
    options = ["--server", "--submit", "slurm", "--max-nodes", "2", "--workers", "4"]
    with cluster.program(*options) as server:
        wait_until(lambda: agents(server) >= 1, 120)
        server.send(signal.SIGINT)
        assert server.wait(60) == 130
    assert not cluster.jobs()


def test_why_nodes_are_not_submitted_is_told_in_the_words_of_slurm(cluster: Cluster) -> None:
    options = ["--server", "--submit", "slurm", "--max-nodes", "2", "--", "--partition", "moon"]
    with cluster.program(*options) as server:
        server.wait_for("sbatch has failed: .*Invalid partition name specified; will try again")
        server.send(signal.SIGTERM)
        assert server.wait(60) == 143


def test_nodes_that_end_at_once_are_not_submitted_again_and_again(cluster: Cluster) -> None:
    options = ["--server", "--submit", "slurm", "--max-nodes", "1", "--time", "1m"]
    with cluster.program(*options, "--", "--export", "PARASNAKE_MAX_LOSSES=none") as server:
        words = server.wait_for("none of them has reached the server; (.*); will try again")[1]
        assert re.search(r"slurm-\d+-1.out ends with: .*max_losses = 'none' \(environment", words)
        server.send(signal.SIGTERM)
        assert server.wait(60) == 143


def test_nodes_by_qsub(cluster: Cluster) -> None:
    with cluster.program("--server", "--access", "gated.access", "--size", str(SIZE)) as server:
        options = ("--submit", "pbs", "--nodes", "2", "--workers", "2", "--time", "0:10:00")
        job = cluster.run(*options, "--", "-l", "mem=64mb").strip()
        wait_until(lambda: agents(server) == 2, 120)
        assert {name.partition("_")[0] for name in cluster.jobs()} == {job}
        wait_until(lambda: cluster.log().count("with 2 workers") == 2)
        cluster.open_gate()
        assert server.wait(60) == 0, server.err
    cluster.check_image()


def test_a_server_that_feeds_itself_by_qsub_leaves_nothing_behind(cluster: Cluster) -> None:
    options = ["--server", "--size", str(SIZE), "--submit", "pbs", "--max-nodes", "5"]
    with cluster.program(*options, "--workers", "4") as server:
        wait_until(lambda: agents(server) == 4 and len(cluster.jobs()) == 5, 120)
        cluster.open_gate()
        assert server.wait(120) == 0, server.err
    assert not cluster.jobs()
    cluster.check_image()


def test_the_scripts_of_the_examples(cluster: Cluster) -> None:
    variables = {"PYTHON": sys.executable, "SCRIPT": str(SCRIPT), "ACCESS": "gated.access"}
    with cluster.program("--server", "--access", "gated.access", "--size", str(SIZE)) as server:
        for program, name in (("sbatch", "slurm.sh"), ("qsub", "pbs.sh")):
            text = (ROOT / "examples" / "cluster" / name).read_text()
            for theirs, ours in (("1-32", "1-1"), ("=16", "=4"), ("8:00:00", "0:10:00")):
                assert theirs in text
                text = text.replace(theirs, ours)
            (cluster.folder / name).write_text(text)
            environ = {**cluster.environ, **variables}
            subprocess.run([program, name], cwd=cluster.folder, env=environ, check=True, timeout=60)
        wait_until(lambda: agents(server) == 2, 120)
        cluster.open_gate()
        assert server.wait(60) == 0, server.err
    cluster.check_image()


def test_the_tutorial_leads_to_a_cluster_as_it_says(cluster: Cluster) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text()
    script = cluster.folder / "primes.py"
    script.write_text(re.findall(r"(?s)```python\n(.*?)```", page)[0])
    lines = page.partition("\n## On a cluster\n")[2].partition("\n## ")[0].splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("python ")]
    assert [command[:2] for command in commands] == [["python", "primes.py"]] * 2
    server_options, node_options = (command[2:] for command in commands)
    with Program(script, server_options, cluster.folder, environ=cluster.environ) as server:
        with Program(script, node_options, cluster.folder, environ=cluster.environ) as nodes:
            assert nodes.wait() == 0, nodes.err
        assert server.wait(180) == 0, server.err
        assert f"```text\n{server.out}```" in page
