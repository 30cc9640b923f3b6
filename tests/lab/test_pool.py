"""Jobs in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.lab import jobs

from diptych.errors import InputError
from diptych.lab.pool import Job, alone, processes, run


@pytest.fixture
def job(tmp_path):
    def make(key, work, *arguments, after=None):
        output = tmp_path / f"{key}.txt"
        return Job(
            key=(key,),
            work=work,
            arguments=arguments,
            output=output,
            after=(after,) if after else None,
        )

    return make


def heard(jobs, at_once):
    events = []
    run(jobs, at_once, lambda event, job, value: events.append((event, str(job), value)))
    return events


def test_jobs_run_in_order_in_processes_of_one_thread_and_are_heard(job, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    events = heard([job("a", jobs.talk, "ja"), job("b", jobs.talk, "bo")], 1)
    assert [event[:2] for event in events] == [
        (e, name) for name in "ab" for e in ("begun", "said", "done")
    ]
    first, second = events[2][2], events[5][2]
    assert events[1][2] == "ja?"
    assert (first["word"], first["threads"], second["threads"]) == ("ja", "1", "1")
    assert len({first["pid"], second["pid"], os.getpid()}) == 3
    assert sorted((tmp_path / "a.txt").read_text().splitlines()) == [
        "and by the system",
        "ja printed",
    ]
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_job_waits_for_the_one_it_comes_after_while_others_go_on(job, tmp_path):
    path = str(tmp_path / "made")
    late, early = job("late", jobs.read, path, after="early"), job("early", jobs.write, path)
    events = heard([late, job("other", jobs.talk, "x"), early], 2)
    assert [name for event, name, _ in events if event == "begun"] == ["other", "early", "late"]
    assert ("done", "late", "written") in events
    ended = [(event, name) for event, name, _ in events]
    assert ended.index(("begun", "late")) > ended.index(("done", "early"))
    assert heard([job("free", jobs.read, path, after="done before")], 1)[-1][2] == "written"


def test_a_script_that_calls_us_is_not_executed_again_by_its_jobs(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nfrom pathlib import Path\nsys.path.append({str(Path.cwd())!r})\n"
        "from tests.lab import jobs\nfrom diptych.lab.pool import Job, run\n"
        "print('executed')\n"
        "job = Job(key=('a',), work=jobs.talk, arguments=('ja',), output=Path('a.txt'))\n"
        "run([job], 1, lambda event, job, value: print(event))\n"
    )
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["executed", "begun", "said", "done"]


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (jobs.refuse, InputError, "no data; bring it with"),
        (jobs.break_down, RuntimeError, r"(?s)bad failed:.*return 1 // 0.*ZeroDivisionError"),
        (
            jobs.die,
            InputError,
            "the process of bad was killed by signal 9, .* start again, with --jobs 1",
        ),
    ],
)
def test_what_a_job_refuses_breaks_or_dies_of_is_told_and_ends_the_others(
    job, work, error, message
):
    endless = []

    def hear(event, job, value):
        if event == "said":
            endless.append(value)

    jobs_ = [
        job("endless", jobs.wait),
        job("first", jobs.talk, "x"),
        job("bad", work, after="first"),
    ]
    with pytest.raises(error, match=message):
        run(jobs_, 2, hear)
    pids = [value for value in endless if isinstance(value, int)]
    assert all(map(is_gone, pids))


def test_an_interrupt_ends_the_jobs_too(job):
    pids = []

    def stop(event, job, value):
        if event == "said":
            pids.append(value)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([job("endless", jobs.wait)], 2, stop)
    assert len(pids) == 1
    assert is_gone(pids[0])


def test_one_process_at_a_time_works_in_a_folder(tmp_path):
    with (
        alone(tmp_path, "not twice"),
        pytest.raises(InputError, match="not twice"),
        alone(tmp_path, "it is taken: not twice"),
    ):
        pass
    with alone(tmp_path, "not twice"):
        pass


def test_as_many_at_once_as_cores_or_as_asked():
    assert processes(3) == 3
    assert 1 <= processes() <= (os.cpu_count() or 1)
    with pytest.raises(InputError, match="--jobs is 0"):
        processes(0)
