"""How much computing is thrown away on nodes that do not live long.

    python tests/benchmarks/time_limits.py --tasks 300 --seconds 0.2
    python tests/benchmarks/time_limits.py --tasks 60 --seconds 3
    python tests/benchmarks/time_limits.py --tasks 60 --seconds 3 --slurm

Nodes of one worker each are started, so many at a time, as long as the job is not over; each lives
``--life`` seconds, by its own ``--time-limit``. With ``--slurm`` they are batch jobs, whose end an
administrator sets to the next second (``scontrol update``) when they have run for so long.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "naps.py"
LOOK_S = 0.1


class Processes:
    """Nodes that are processes here."""

    def __init__(self, command: list[str], life: float, folder: Path) -> None:
        self._command = [*command, "--time-limit", str(life)]
        self._log = folder / "nodes.err"
        self._all: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start one."""
        with self._log.open("ab") as log:
            self._all.append(subprocess.Popen(self._command, stderr=log))

    def running(self) -> int:
        """How many are there."""
        return sum(process.poll() is None for process in self._all)

    def close(self) -> None:
        """See them off."""
        for process in self._all:
            process.wait(30)


class Jobs:
    """Nodes that are jobs of Slurm."""

    def __init__(self, command: list[str], life: float, folder: Path) -> None:
        self._batch = ["sbatch", "--parsable", "--cpus-per-task=1", f"--output={folder}/%j.err"]
        self._batch.append("--wrap=exec " + " ".join(command))
        self._life = life
        self._told: set[int] = set()
        self._all: set[int] = set()

    def start(self) -> None:
        """Submit one."""
        done = subprocess.run(self._batch, capture_output=True, text=True, check=True)
        self._all.add(int(done.stdout))

    def running(self) -> int:
        """How many are there or wait; who has lived long enough is told to end."""
        listed = subprocess.run(["squeue", "--json"], capture_output=True, text=True, check=True)
        jobs = [job for job in json.loads(listed.stdout)["jobs"] if job["job_id"] in self._all]
        there = [job for job in jobs if job["job_state"] in ("PENDING", "RUNNING", "COMPLETING")]
        for job in there:
            old = job["job_state"] == "RUNNING" and time.time() - job["start_time"] > self._life
            if old and job["job_id"] not in self._told:
                self._told.add(job["job_id"])
                update = ["scontrol", "update", f"JobId={job['job_id']}", "EndTime=now+1"]
                subprocess.run(update, check=True)
        return len(there)

    def close(self) -> None:
        """Wait until all have ended."""
        while self.running():
            time.sleep(LOOK_S)


def main() -> None:
    """Measure one job."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--life", type=float, default=20.0)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--slurm", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(measured(given, Path(name)))


def measured(given: argparse.Namespace, folder: Path) -> str:
    """Run it and return what its server says at its end."""
    key = folder / "key"
    key.write_text(secrets.token_hex(16))
    key.chmod(0o600)
    tasks = ["--count", str(given.tasks), "--seconds", str(given.seconds), f"--key-file={key}"]
    command = [sys.executable, str(SCRIPT), *tasks]
    log = folder / "server.err"
    with log.open("wb") as file:
        server = subprocess.Popen([*command, "--server", "--port", "0"], stderr=file)
    try:
        while not (port := re.search(r"server on port (\d+)", log.read_text())):
            time.sleep(LOOK_S)
        kind = Jobs if given.slurm else Processes
        nodes = kind([*command, "--port", port[1]], given.life, folder)
        while server.poll() is None:
            for _ in range(given.nodes - nodes.running()):
                nodes.start()
            time.sleep(LOOK_S)
        nodes.close()
    finally:
        server.kill()
    warnings = [line for line in log.read_text().splitlines() if "WARNING" in line]
    return "\n".join([*warnings, log.read_text().splitlines()[-1]])


if __name__ == "__main__":
    main()
