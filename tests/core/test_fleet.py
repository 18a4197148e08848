"""How many batch jobs a server has: it lists, submits, cancels, and gives up."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parasnake.core import fleet
from parasnake.core.fleet import Cancel, Fleet, List, Submit, Work

PLENTY = Work(left=10_000, seconds=None, workers=4, idle=False)


def started(*, most: int = 8, life: float | None = None, together: int = 64) -> Fleet:
    """A fleet that has just been told to list its batch jobs."""
    new = Fleet(most, life=life, together=together)
    assert new.next_step(0.0) == List()
    return new


def wanted(work: Work, *, most: int = 64, life: float | None = None) -> int:
    """How many are submitted where there are none."""
    new = started(most=most, life=life)
    new.listed(0.0, [], set(), work=work)
    step = new.next_step(0.0)
    return step.count if isinstance(step, Submit) else 0


# ---- what the work is worth


@pytest.mark.parametrize(
    ("work", "count"),
    [
        (Work(None, None, 4, idle=False), 64),  # nobody knows: as many as may be
        (Work(None, 5.0, 4, idle=True), 0),  # and of what nobody knows there is nothing just now
        (Work(10, None, 4, idle=False), 3),  # no more workers than tasks
        (Work(10_000, None, 4, idle=False), 64),
        (Work(0, 1.0, 4, idle=False), 0),
        (Work(1, 0.0, 4, idle=False), 1),
        (Work(1000, 0.06, 4, idle=False), 1),  # a minute of work for two workers
        (Work(1000, 0.6, 1, idle=False), 11),
        (Work(10, 3600.0, 4, idle=False), 3),
    ],
)
def test_nodes_are_worth_it_if_each_worker_has_a_minute_to_do(work: Work, count: int) -> None:
    assert wanted(work) == count


def test_where_nodes_live_shorter_than_that_more_of_them_are_worth_it() -> None:
    work = Work(300, 0.2, 1, idle=False)
    assert wanted(work) == 2
    assert wanted(work, life=20.0) == 4


def test_there_are_never_more_than_allowed() -> None:
    new = started(most=8)
    new.listed(0.0, ["5"], {"1", "2", "3", "4"}, work=PLENTY)
    assert new.next_step(0.0) == Submit(3)
    new.submitted(0.0)
    assert new.next_step(0.0) is None
    assert new.size == 5


def test_where_each_is_submitted_alone_they_follow_each_other() -> None:
    new = started(most=2, together=1)
    new.listed(0.0, [], set(), work=PLENTY)
    for _ in range(2):
        assert new.deadline == 0.0
        assert new.next_step(0.0) == Submit(1)
        assert new.next_step(0.0) is None, "one step at a time"
        assert new.deadline is None
        new.submitted(0.0)
    assert new.deadline == fleet.FIRST_PAUSE_S
    new.next_step(new.deadline)
    assert new.listed(5.0, ["1", "2"], set(), work=PLENTY) == ""


def test_queued_ones_are_cancelled_when_little_is_left() -> None:
    new = started(most=8)
    work = Work(left=4, seconds=1.0, workers=4, idle=False)
    new.listed(0.0, ["a", "b", "c"], {"d"}, work=work)
    assert new.next_step(0.0) == Cancel(("a", "b", "c"))
    new.cancelled()
    assert new.next_step(0.0) is None


def test_those_that_run_are_left_alone() -> None:
    new = started(most=8)
    new.listed(0.0, [], {"a", "b", "c"}, work=Work(1, 1.0, 4, idle=True))
    assert new.next_step(0.0) is None


def test_one_too_many_is_not_worth_a_place_in_the_queue() -> None:
    new = started(most=8)
    new.listed(0.0, ["a"], {"b", "c"}, work=Work(8, None, 4, idle=False))
    assert new.next_step(0.0) is None


# ---- when it asks


def test_it_asks_more_seldom_while_nothing_happens() -> None:
    new = started(most=1)
    times = [0.0]
    for _ in range(6):
        new.listed(times[-1], [], {"a"}, work=PLENTY)
        assert new.deadline is not None
        assert new.next_step(new.deadline - 0.1) is None
        times.append(new.deadline)
        assert new.next_step(times[-1]) == List()
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_it_asks_soon_when_an_agent_has_gone_and_replaces_that() -> None:
    new = started(most=2)
    new.listed(0.0, [], {"a", "b"}, work=PLENTY)
    new.changed(1.0)
    assert new.next_step(1.0 + fleet.SOON_S) == List()
    new.listed(2.0, [], {"b"}, work=PLENTY)
    assert new.next_step(2.0) == Submit(1)


def test_a_slow_batch_system_is_asked_more_seldom() -> None:
    new = started(most=1)
    new.listed(20.0, [], {"a"}, work=PLENTY, took=20.0)
    new.changed(21.0)
    assert new.deadline == 20.0 + fleet.SHARE * 20.0


def test_nothing_is_submitted_as_long_as_nobody_knows_what_there_is() -> None:
    new = started()
    times = [0.0]
    for _ in range(8):
        new.not_listed(times[-1])
        assert new.deadline is not None
        times.append(new.deadline)
        assert new.next_step(times[-1]) == List()
    assert times[1] == fleet.FIRST_RETRY_S
    assert times[-1] - times[-2] == fleet.LAST_RETRY_S


# ---- what goes wrong


def test_submissions_that_fail_are_tried_again_with_growing_pauses_and_then_no_more() -> None:
    new = started()
    now = 0.0
    for number in range(fleet.MAX_FAILURES):
        assert not new.given_up
        new.listed(now, [], set(), work=PLENTY)
        assert new.next_step(now) == Submit(8)
        new.not_submitted(now)
        assert new.deadline is not None
        assert new.deadline - now == min(10.0 * 2**number, 600.0)
        now = new.deadline
        assert new.next_step(now) == List()
    assert new.given_up
    new.listed(now, [], set(), work=PLENTY)
    assert new.next_step(now) is None


def test_it_does_not_hurry_after_a_failure_because_an_agent_has_gone() -> None:
    new = started()
    new.listed(0.0, [], {"a"}, work=PLENTY)
    assert new.next_step(0.0) == Submit(7)
    new.not_submitted(0.0)
    new.changed(1.0)
    assert new.next_step(3.0) is None
    assert new.next_step(10.0) == List()


def test_an_agent_that_reaches_the_server_makes_failures_forgotten() -> None:
    new = started()
    now = 0.0
    for _ in range(3 * fleet.MAX_FAILURES):
        new.listed(now, [], set(), work=PLENTY)
        new.next_step(now)
        new.not_submitted(now)
        new.reached()
        assert new.deadline is not None
        now = new.deadline
        new.next_step(now)
    assert not new.given_up


def submit_and_list(new: Fleet, now: float, jobs: set[str]) -> str:
    """Submit; ``jobs`` are there when it lists them next."""
    assert isinstance(new.next_step(now), Submit)
    new.submitted(now)
    assert new.next_step(now + fleet.FIRST_PAUSE_S) == List()
    return new.listed(now + fleet.FIRST_PAUSE_S, [], jobs, work=PLENTY)


IN_VAIN = "all batch jobs of a submission have ended, and none of them has reached the server"


def test_batch_jobs_that_end_at_once_are_a_failure() -> None:
    new = started()
    new.listed(0.0, [], set(), work=PLENTY)
    assert submit_and_list(new, 0.0, set()) == IN_VAIN
    assert new.next_step(5.0 + fleet.FIRST_RETRY_S - 0.1) is None
    assert new.next_step(5.0 + fleet.FIRST_RETRY_S) == List()


def test_batch_jobs_that_end_later_without_reaching_the_server_are_a_failure() -> None:
    new = started()
    new.listed(0.0, [], set(), work=PLENTY)
    assert submit_and_list(new, 0.0, {"a", "b"}) == ""
    assert submit_and_list(new, 10.0, {"b", "c"}) == ""
    assert new.next_step(15.0) == Submit(6)
    new.not_submitted(15.0)
    new.next_step(100.0)
    assert new.listed(100.0, [], {"c"}, work=PLENTY) == IN_VAIN, "the first submission is over"


def test_batch_jobs_that_end_after_they_have_reached_the_server_are_replaced() -> None:
    new = started()
    new.listed(0.0, [], set(), work=PLENTY)
    assert submit_and_list(new, 0.0, {"a"}) == ""
    new.reached()
    assert submit_and_list(new, 10.0, {"b"}) == ""
    new.reached()
    assert submit_and_list(new, 20.0, {"c"}) == ""


def test_batch_jobs_that_it_cancelled_are_no_failure() -> None:
    new = started()
    new.listed(0.0, [], set(), work=PLENTY)
    new.next_step(0.0)
    new.submitted(0.0)
    new.next_step(5.0)
    new.listed(5.0, ["a", "b"], set(), work=Work(0, 1.0, 4, idle=False))
    assert new.next_step(5.0) == Cancel(("a", "b"))
    new.cancelled()
    new.next_step(100.0)
    assert new.listed(100.0, [], set(), work=PLENTY) == ""


def test_what_it_finds_after_a_restart_counts() -> None:
    new = started(most=3)
    assert new.listed(0.0, ["b"], {"a"}, work=PLENTY) == ""
    assert new.next_step(0.0) == Submit(1)


@given(st.data())
def test_whatever_happens_there_are_never_too_many(data: st.DataObject) -> None:
    most = data.draw(st.integers(1, 5))
    new = Fleet(most, life=None, together=data.draw(st.integers(1, 5)))
    jobs: set[str] = set()
    now, begun = 0.0, 0
    for _ in range(30):
        now += data.draw(st.sampled_from([0.0, 1.0, 30.0, 700.0]))
        jobs -= data.draw(st.sets(st.sampled_from(sorted(jobs) or ["-"])))
        happens = data.draw(st.sampled_from(["nothing", "reached", "changed"]))
        if happens == "reached":
            new.reached()
        elif happens == "changed":
            new.changed(now)
        works = data.draw(st.booleans())
        match new.next_step(now):
            case List():
                queued = data.draw(st.sets(st.sampled_from(sorted(jobs) or ["-"]))) & jobs
                left = data.draw(st.sampled_from([None, 0, 1, 1000]))
                if works:
                    work = Work(left, 1.0, 1, idle=data.draw(st.booleans()))
                    new.listed(now, sorted(queued), jobs - queued, work=work)
                else:
                    new.not_listed(now)
            case Submit(count) if works:
                jobs |= {str(begun + number) for number in range(count)}
                begun += count
                new.submitted(now)
            case Submit():
                new.not_submitted(now)
            case Cancel(cancelled):
                jobs -= set(cancelled)
                new.cancelled()
            case None:
                assert new.deadline is not None
                assert new.deadline > now
        assert len(jobs) <= most
