"""A Ray cluster of two workers: the results of one process, whatever happens to the workers, and one
line where the cluster goes away."""

import io
import os
import pickle
import secrets
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from tests.conftest import make_pairs
from tests.embeddings.helpers import contents

import diptych
from diptych import engines
from diptych.cli import main
from diptych.embeddings import parts
from diptych.engines import Ray
from diptych.errors import InputError

# Workers of a cluster start anew, which takes long where others compute.
pytestmark = pytest.mark.timeout(600)
EMBED = ("--batch-size", "16", "--device", "cpu")
QUICKLY = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "300",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "2",
}
"""With these Ray finds in half a second that a node is gone, else in fifteen."""


@pytest.fixture(scope="module", autouse=True)
def equal():
    """Ray's workers give way to other processes, so that beside other tests they take minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """240 images of noise with a caption each in three tars; one image is damaged."""
    folder = tmp_path_factory.mktemp("shards")
    table = make_pairs(folder / "pairs", 240)
    damaged = folder / "pairs" / "123.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    lines = table.read_text().splitlines()[1:]
    for number in range(3):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for name, caption in (line.split(",") for line in lines[number * 90 :][:90]):
                tar.add(table.parent / name, name)
                text = tarfile.TarInfo(name.replace("png", "txt"))
                text.size = len(caption)
                tar.addfile(text, io.BytesIO(caption.encode()))
    return f"{folder}/*.tar"


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """The embeddings that one process makes."""
    out = tmp_path_factory.mktemp("whole") / "emb"
    assert main(["embed", "tiny", shards, "--out", str(out), *EMBED]) == 0
    return contents(out)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """`--engine` of a cluster with two processors, and its first process."""
    port, client = free_port(), free_port()
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        *("start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"),
        *(f"--port={port}", f"--ray-client-server-port={client}"),
        *("--include-dashboard=false", "--disable-usage-stats"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        head = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=tmp_path_factory.mktemp("elsewhere"),
        )
        processes = psutil.Process(head.pid)
        try:
            yield f"ray:127.0.0.1:{port}", processes
        finally:
            for process in [*processes.children(recursive=True), processes]:
                process.kill()
            head.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def answers(cluster) -> str:
    """The `--engine` of the cluster, once it accepts connections."""
    engine, processes = cluster
    end = time.monotonic() + 60
    host, port = engine.removeprefix("ray:").split(":")
    while time.monotonic() < end and processes.status() != psutil.STATUS_ZOMBIE:
        with socket.socket() as tried:
            if tried.connect_ex((host, int(port))) == 0:
                return engine
        time.sleep(0.2)
    raise AssertionError(f"{engine} does not answer")


class Killer(threading.Thread):
    """Kills one of the processes that `find` returns, while a part of `out` is under way, at any
    time until it is joined."""

    def __init__(self, out, find, done=0):
        super().__init__(daemon=True)
        self.folder, self.find, self.done, self.killed = parts.folder_of(out), find, done, None
        self.over = threading.Event()

    def join(self, timeout=None):
        self.over.set()
        super().join(timeout)

    def run(self):
        while not self.over.is_set() and self.killed is None:
            # the folder of a part, not its rows, which a part of one batch has for an instant alone
            under_way = [*self.folder.glob(".*.unfinished")]
            finished = [*self.folder.glob("[!.]*-of-*")]  # `*` alone takes hidden names
            if under_way and len(finished) >= self.done:
                for process in self.find():
                    self.killed = process.pid
                    process.kill()
                    break
            time.sleep(0.005)


def workers(processes):
    """The actors that embed: Ray names its processes after what they run."""
    for process in processes.children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if "_Worker" in " ".join(process.cmdline()):
                yield process


def test_a_killed_worker_loses_no_row_and_doubles_none(shards, whole, cluster, tmp_path, capfd):
    out = tmp_path / "emb"
    killer = Killer(out, partial(workers, cluster[1]), done=3)
    killer.start()
    assert (
        main(["embed", "tiny", shards, "--out", str(out), *EMBED, "--engine", answers(cluster)])
        == 0
    )
    killer.join()
    assert killer.killed is not None
    assert contents(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["emb"]
    said = capfd.readouterr()
    assert "239 images embedded, 1 damaged ones left out" in said.err
    assert "Ray" not in said.err
    assert "Traceback" not in said.err


def test_a_cluster_that_goes_away_keeps_what_is_done(
    shards, whole, cluster, tmp_path, capsys, monkeypatch
):
    """A cluster of this machine loses its head; another one goes on."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name)
    for name, value in QUICKLY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # of the log
    out = tmp_path / "emb"
    mine = psutil.Process()

    def raylets():
        others = {each.pid for each in cluster[1].children(recursive=True)}
        return [
            each
            for each in mine.children(recursive=True)
            if each.name() == "raylet" and each.pid not in others
        ]

    killer = Killer(out, raylets, done=2)
    killer.start()
    assert main(["embed", "tiny", shards, "--out", str(out), *EMBED, "--engine", "ray"]) == 2
    killer.join()
    *reported, line = capsys.readouterr().err.splitlines()
    assert all(each.startswith("embedding: ") for each in reported)
    assert "Ray on this machine went away before all was done; start it again" in line
    kept = parts.folder_of(out)
    done = {path.name: path.stat().st_mtime_ns for path in kept.glob("*-of-15")}
    assert 2 <= len(done) < 15
    with pytest.raises(InputError, match="lacks part"):
        parts.merge(out)
    assert not out.exists()
    assert main(["embed", "tiny", shards, "--out", str(out), *EMBED]) == 0
    assert contents(out) == whole
    assert not kept.exists()


def test_check_says_what_one_process_says(shards, cluster):
    engine = answers(cluster)
    val = shards.replace("*", "2")
    reports = []
    for settings in ({}, {"engine": engine}):
        report = diptych.check(shards, val=val, **settings).report.to_dict()
        del report["cost"]["read_ms"], report["cost"]["epoch_seconds"]  # times
        reports.append(report)
    assert reports[0] == reports[1]
    assert [*reports[0]["damaged"]] == ["123"]
    assert reports[0]["leakage"]["same_image"] == 60


class Fails:
    def __call__(self, item):
        if item == 3:
            raise InputError("three is bad; give four")
        return 1 / item


def test_nothing_to_do_needs_no_cluster(monkeypatch):
    monkeypatch.setattr(Ray, "_child", None)
    assert list(Ray("127.0.0.1:9").spread(str, [])) == []


def test_a_worker_reports_what_the_work_raises():
    worker = engines._Worker([], ".", [], diptych.__version__)
    worker.work = Fails()
    rows = [worker({"at": at, "item": pickle.dumps(at)}) for at in (4, 3, 0)]
    assert pickle.loads(rows[0]["made"]) == 0.25
    user, defect = (pickle.loads(row["error"]) for row in rows[1:])
    assert isinstance(user, InputError)
    assert str(user) == "three is bad; give four"
    assert isinstance(defect, RuntimeError)
    assert "ZeroDivisionError" in str(defect)


def test_a_node_with_another_version_is_refused():
    row = engines._Worker([], ".", [], "0.0.1")({"at": 0, "item": pickle.dumps(0)})
    with pytest.raises(
        InputError, match="this machine 0.0.1; install the same version on all nodes"
    ):
        raise pickle.loads(row["error"])


def test_a_cluster_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # of the log
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match=r"cannot be used .*refused.*; check that it runs"):
        list(Ray.parse(f"ray:{address}").spread(abs, [1]))


@pytest.mark.parametrize(
    "engine",
    [
        "",
        "spark",
        "ray:",
        "ray:host",
        "ray:host:port",
        "ray:a b:1",
        "rays",
        "ray:http://h:1",
    ],
)
def test_an_engine_that_is_none_is_refused(engine):
    with pytest.raises(InputError, match="is none; write ray"):
        Ray.parse(engine)


def test_addresses():
    for engine, address in {
        "ray": None,
        "ray:auto": "auto",
        "ray:head.local:6379": "head.local:6379",
        "ray:[::1]:6379": "[::1]:6379",
    }.items():
        assert Ray.parse(engine).address == address


def test_ray_client_is_refused():
    with pytest.raises(InputError, match=r"does not run from outside .* with --engine ray:auto"):
        Ray.parse("ray://10.0.0.1:10001")


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setattr("diptych.engines.find_spec", lambda name: None if name == "ray" else name)
    with pytest.raises(
        InputError, match=r"needs ray; install it with: pip install 'diptych\[cluster\]'"
    ):
        Ray.parse("ray")


def test_ctrl_c_ends_the_child_and_its_cluster(tmp_path):
    """In a process of its own, since the signal could reach a runner of tests anywhere."""
    token = secrets.token_hex(32)
    code = (
        f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"  # of the log
        "from diptych.engines import Ray\n"
        "list(Ray().spread(abs, [1]))"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "RAY_AUTH_TOKEN": token},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: "raylet" in of_token(token))
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    wait_until(lambda: not of_token(token))
    assert not list(tmp_path.iterdir())


def of_token(token):
    """The names of the processes that use a cluster, or are one."""
    names = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # another user's, or it has just ended
            if process.environ().get("RAY_AUTH_TOKEN") == token:
                names.append(process.name())
    return names


def wait_until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)
