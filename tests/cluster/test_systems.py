"""What the batch systems are told, and how what they answer is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from parasnake.cluster.systems import BatchJob, Pbs, Request, Slurm, State, find, hours
from parasnake.errors import BatchError, ConfigurationError

FOLDER = Path("/home/me/job.nodes")


def request(count: int = 4, *, options: tuple[str, ...] = ()) -> Request:
    return Request("squares", count, 16, 8 * 3600, FOLDER, options)


def test_slurm_is_asked_for_one_array() -> None:
    assert Slurm().options(request(options=("--mem", "64G"))) == [
        ["--job-name=squares"],
        ["--array=1-4"],
        ["--nodes=1"],
        ["--ntasks=1"],
        ["--cpus-per-task=16"],
        ["--time=8:00:00"],
        ["--output=/home/me/job.nodes/slurm-%A-%a.out"],
        ["--open-mode=append"],
        ["--requeue"],
        ["--mem", "64G"],
    ]


def test_pbs_is_asked_for_one_array() -> None:
    assert Pbs().options(request(options=("-q", "long"))) == [
        ["-N", "squares"],
        ["-J", "1-4"],
        ["-l", "nodes=1:ppn=16"],
        ["-l", "walltime=8:00:00"],
        ["-j", "oe"],
        ["-o", "/dev/null"],
        ["-S", "/bin/sh"],
        ["-q", "long"],
    ]


def test_torque_has_another_option_for_arrays() -> None:
    torque = find("pbs", "Version: 6.1.2\nCommit: 661e092552de43a785c15d39a3634a541d86898e\n")
    assert ["-t", "1-4"] in torque.options(request())
    openpbs = find("pbs", "pbs_version = 23.06.06\n")
    assert ["-J", "1-4"] in openpbs.options(request())


def test_an_array_of_one_is_none_for_pbs() -> None:
    assert not any("-J" in line for line in Pbs().options(request(1)))
    assert ["--array=1-1"] in Slurm().options(request(1))


def test_what_is_not_known_is_left_to_the_batch_system() -> None:
    anything = Request("squares", 4, None, None, FOLDER)
    for system in (Slurm(), Pbs()):
        words = " ".join(word for line in system.options(anything) for word in line)
        assert not any(name in words for name in ("time", "cpus", "ppn"))


@pytest.mark.parametrize("wish", ["select=1:ncpus=8:mem=4gb", "nodes=1:ppn=8"])
def test_what_a_node_is_may_be_said_in_the_manner_of_the_cluster(wish: str) -> None:
    lines = Pbs().options(request(options=("-l", wish)))
    assert ["-l", "nodes=1:ppn=16"] not in lines
    assert lines[-1] == ["-l", wish]


def test_a_percent_sign_in_a_folder_is_no_pattern() -> None:
    odd = Request("squares", 1, None, None, Path("/tmp/100%"))
    assert ["--output=/tmp/100%%/slurm-%A-%a.out"] in Slurm().options(odd)


def test_names_are_such_as_the_batch_system_takes() -> None:
    assert Slurm().job_name("my study", "-1a2b3c4d") == "my_study-1a2b3c4d"
    assert Pbs().job_name("a_rather_long_name", "-1a2b3c4d") == "a_rath-1a2b3c4d"
    assert Pbs().job_name("3d", "-1a2b3c4d") == "x3d-1a2b3c4d"
    assert Pbs().job_name("") == "nodes"


def test_extra_options_are_given_to_the_command_as_they_are() -> None:
    options = ("--comment", "it's mine")
    command = Slurm().submit(request(options=options), FOLDER / "slurm.sh")
    assert command == ["sbatch", "--parsable", *options, "/home/me/job.nodes/slurm.sh"]
    assert Pbs().submit(request(options=options), FOLDER / "pbs.sh")[-3:] == [
        *options,
        "/home/me/job.nodes/pbs.sh",
    ]


@pytest.mark.parametrize(
    ("system", "output", "job"),
    [
        (Slurm(), "4711\n", "4711"),
        (Slurm(), "4711;cluster\n", "4711"),
        (Slurm(), "Remember: no jobs on Monday 23\n4711\n", "4711"),
        (Pbs(), "4711.login\n", "4711.login"),
        (Pbs(), "4711[].login.example.org\n", "4711[].login.example.org"),
        (Pbs(), "4711\n", "4711"),
    ],
)
def test_the_job_id_is_read(system: Slurm | Pbs, output: str, job: str) -> None:
    assert system.submitted(output) == job


def test_an_answer_without_an_id_is_an_error_that_shows_it() -> None:
    with pytest.raises(BatchError, match=r"sbatch has answered with no job id: 'come again\?'"):
        Slurm().submitted("come again?\n")


def test_slurm_lists_nodes_and_why_they_wait() -> None:
    output = "7_1 RUNNING None\n7_2 PENDING (Resources)\n7_3 COMPLETING None\n7_4 FAILED None\n"
    assert Slurm().listed("squares", output) == [
        BatchJob("7_1", State.RUNNING),
        BatchJob("7_2", State.QUEUED, "Resources"),
        BatchJob("7_3", State.ENDING),
    ]


def test_pbs_lists_the_jobs_of_all() -> None:
    def job(number: int, name: str, state: str) -> str:
        return (
            f"Job Id: {number}.login\n    Job_Name = {name}\n    job_state = {state}\n"
            f"    Variable_List = PBS_O_HOME=/home/me,\n\tPBS_O_LANG=C\n\n"
        )

    output = job(1, "mine", "R") + job(2, "mine", "Q") + job(3, "other", "R") + job(4, "mine", "C")
    assert Pbs().listed("mine", output) == [
        BatchJob("1.login", State.RUNNING),
        BatchJob("2.login", State.QUEUED),
    ]


def test_jobs_are_cancelled_by_id() -> None:
    jobs = [BatchJob("7_1", State.QUEUED), BatchJob("7_2", State.RUNNING)]
    assert Slurm().cancel(jobs) == ["scancel", "7_1", "7_2"]
    assert Pbs().cancel(jobs) == ["qdel", "7_1", "7_2"]


def test_no_other_batch_system_is_known() -> None:
    with pytest.raises(ConfigurationError, match="'lsf'; allowed: 'slurm' or 'pbs'"):
        find("lsf")


@pytest.mark.parametrize(
    ("seconds", "text"), [(90, "0:01:30"), (8 * 3600, "8:00:00"), (172_800, "48:00:00")]
)
def test_times_are_written_as_both_read_them(seconds: int, text: str) -> None:
    assert hours(seconds) == text
