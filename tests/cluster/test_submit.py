"""``--submit`` without a batch system: the script that it would submit, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from programs import environment

from parasnake.cluster.commands import environment as for_commands
from parasnake.cluster.order import read_time
from parasnake.errors import ConfigurationError

SCRIPT = """
import argparse
from parasnake import Parasnake

app = Parasnake("odd")
app.process(lambda data: data)

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int)
    parser.add_argument("--time", help="a time in the script's own model")
    parser.add_argument("name", nargs="?")
    app.main(parser)
"""


def start(
    folder: Path, *options: str, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    (folder / "odd.py").write_text(SCRIPT)
    return subprocess.run(
        [sys.executable, "odd.py", *options],
        cwd=folder,
        env={**environment(folder), "PWD": str(folder), **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose name is not easy to write."""
    path = tmp_path / "it's a $HOME"
    path.mkdir()
    return path


def test_a_dry_run_shows_the_whole_script_and_does_nothing(folder: Path) -> None:
    options = ["--size", "7", "--ip", "login", "--submit", "slurm", "--nodes", "32", "-v", "a b"]
    more = ["--workers=16", "--submit-time", "8h", "--dry-run", "--", "--mem", "64G"]
    shown = start(folder, *options, *more)
    assert shown.returncode == 0, shown.stderr
    quoted = str(folder).replace("'", "'\"'\"'")
    assert shown.stdout.splitlines()[2:] == [
        "#SBATCH --job-name=odd",
        "#SBATCH --array=1-32",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        "#SBATCH --cpus-per-task=16",
        "#SBATCH --time=8:00:00",
        f"#SBATCH '--output={quoted}/odd.nodes/slurm-%A-%a.out'",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "#SBATCH --mem 64G",
        "",
        f"cd '{quoted}' || exit 1",
        f"exec {sys.executable} odd.py --workers auto --size 7 --ip login -v 'a b'",
        "",
        "# To submit it: sbatch --parsable --mem 64G odd.nodes/slurm.sh",
    ]
    assert [path.name for path in folder.iterdir()] == ["odd.py"]


def test_the_script_for_pbs_starts_the_same_in_the_same_folder(folder: Path) -> None:
    """As a shell reads it: with a node that tells where it is, and what it got."""
    (folder / "odd.nodes").mkdir()
    tells = "import os, sys; print(os.getcwd(), sys.argv[1:], os.environ['PARASNAKE_PORT'])"
    variables = {"PARASNAKE_PORT": "3200", "PARASNAKE_SECRET_KEY": "k" * 32}
    shown = start(folder, "a $b", "--submit", "pbs", "--nodes", "2", "--dry-run", environ=variables)
    assert "k" * 32 not in shown.stdout
    (folder / "odd.py").write_text(tells)
    job = {
        "PBS_JOBID": "123[4].login.example.org",
        "PBS_ARRAY_INDEX": "4",
        "PATH": os.environ["PATH"],
    }
    subprocess.run(["sh", "-c", shown.stdout], env=job, check=True, timeout=60)
    written = (folder / "odd.nodes" / "pbs-123-4.out").read_text()
    options = ["--workers", "auto", "--access", "odd.access", "a $b"]
    assert written == f"{folder} {options} 3200\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--nodes", "4"], "--nodes is given without --submit"),
        (["--submit", "slurm"], "--nodes is missing; allowed with --submit: a whole number from 1"),
        (["--submit", "slurm", "--nodes", "0"], "--nodes is '0'"),
        (["--submit", "slurm", "--max-nodes", "4"], "allowed: --nodes N there"),
        (["--server", "--submit", "slurm", "--nodes", "4"], "allowed: --max-nodes N there"),
        (["--local", "2", "--submit", "slurm", "--nodes", "4"], "allowed: one of the two"),
        (["-sv", "--submit", "slurm", "--max-nodes", "4"], "options cannot be told apart"),
        (["--submit", "slurm", "--nodes", "4", "--submit-time", "60"], "allowed: 8:00:00, "),
        (["--submit", "slurm", "--nodes", "4", "--", "a\nb"], "options for slurm are in one line"),
    ],
)
def test_what_does_not_go_together_is_told_in_a_line(
    folder: Path, options: list[str], words: str
) -> None:
    refused = start(folder, *options)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert words in refused.stderr
    assert not refused.stdout


def test_a_machine_without_the_batch_system_says_so(folder: Path) -> None:
    refused = start(folder, "--submit", "slurm", "--nodes", "4", environ={"PATH": ""})
    assert refused.returncode == 1
    assert "there is no sbatch here; submit from a machine of the cluster" in refused.stderr


def test_the_words_of_the_batch_system_are_passed_on(folder: Path) -> None:
    refusing = folder / "sbatch"
    refusing.write_text("#!/bin/sh\necho 'sbatch: error: Invalid\n  partition' >&2; exit 1\n")
    refusing.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    refused = start(folder, "--submit", "slurm", "--nodes", "4", environ={"PATH": path})
    assert refused.returncode == 1
    assert refused.stderr == (
        "odd.py: error: sbatch has failed: sbatch: error: Invalid partition\n"
    )


def test_a_program_that_nobody_can_start_again_is_refused(folder: Path) -> None:
    (folder / "odd.py").write_text(SCRIPT)
    code = (
        "import runpy, sys; sys.argv[0] = 'odd.py'; runpy.run_path('odd.py', run_name='__main__')"
    )
    refused = subprocess.run(
        [sys.executable, "-c", code, "--submit", "slurm", "--nodes", "4"],
        cwd=folder, env=environment(folder), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "this program is no script that can be started again" in refused.stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("8:00:00", 28800),
        ("30:00", 1800),
        ("1-12:00:00", 129_600),
        ("90s", 90),
        ("90m", 5400),
        ("8h", 28800),
        ("2d", 172_800),
    ],
)
def test_times_as_people_write_them(text: str, seconds: int) -> None:
    assert read_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "60", "0:00", "8 h", "-1h", "1:2:3:04", "8:0", "9" * 12 + "h"]
)
def test_times_that_mean_nothing_or_two_things(text: str) -> None:
    with pytest.raises(ConfigurationError, match="allowed: 8:00:00, "):
        read_time(text)


def test_commands_know_nothing_of_the_job_that_they_are_run_in() -> None:
    inside = {
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "4",
        "PBS_JOBID": "7",
        "SLURMD_NODENAME": "n",
    }
    outside = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "a", "PATH": "/bin"}
    assert for_commands(inside | outside) == outside
