"""Where new processes come from."""

import multiprocessing
import os
import sys

import pytest

from diptych import processes


@pytest.mark.skipif(sys.platform != "linux", reason="a server of forks is started on Linux alone")
def test_a_process_begins_with_libraries_in_one_thread_and_without_this_package(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    new = processes.context()
    ours, theirs = new.Pipe(duplex=False)
    code = (
        "import sys, torch;"
        "found = (sorted(name for name in sys.modules if name.partition('.')[0] == 'diptych'),"
        "'accelerate' in sys.modules, torch.get_num_threads())"
    )
    process = new.Process(target=_tell, args=(theirs, code))
    process.start()
    theirs.close()
    of_this_file = ["diptych", "diptych.processes"]
    assert ours.recv() == (of_this_file, True, 1)
    process.join()
    assert os.environ["OMP_NUM_THREADS"] == "7"


def _tell(pipe, code):
    found = {}
    exec(code, found)
    pipe.send(found["found"])


def test_elsewhere_a_process_is_a_new_interpreter(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert processes.context() is multiprocessing.get_context("spawn")
