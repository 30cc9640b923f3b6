"""Whole jobs as a shell runs them: the life of a model, many ranks, kill -9, SIGTERM."""

import json
import signal
import socket
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tests.cli.helpers import TINY, finish, make_folder, make_tar, shell

AT_STEP = """
import os, signal, sys
from diptych.cli import main
from diptych.training.log import Log
write = Log.write
def writing(log, **values):
    write(log, **values)
    if values.get("step") == 2:
        {what}
Log.write = writing
sys.exit(main())
"""


def start_event(run: Path) -> dict:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[0])


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def assert_done(called) -> str:
    assert called.code == 0, called
    return called.out


def test_the_life_of_a_model(tmp_path, monkeypatch, diptych):
    """Its first and its last command as processes of their own: what one leaves, another reads."""
    monkeypatch.chdir(tmp_path)
    data = make_tar(tmp_path / "web.tar").name
    assert_done(
        finish(
            shell(
                "train", "clip", "--data", data, "--val", data, *TINY, "--out", "run", cwd=tmp_path
            )
        )
    )
    evaluated = assert_done(diptych("evaluate", "run", "--data", data, "--json", "--exact"))
    embedded = assert_done(diptych("embed", "run", data, "--out", "emb", "--exact"))
    info = assert_done(diptych("info", "run", "--json"))
    check = assert_done(diptych("check", data, "--json"))
    count = json.loads(check)["samples"]
    assert json.loads(evaluated)["retrieval"]["n"] == count
    assert json.loads(evaluated)["retrieval"]["decoding"] == "full"
    assert json.loads(info)["steps"] == 3
    assert "emb" in embedded
    assert json.loads((tmp_path / "emb" / "diptych.json").read_text())["count"] == count
    assert json.loads((tmp_path / "emb" / "diptych.json").read_text())["exact"] is True
    search = shell("search", "emb", "a red thing", "-k", "2", "--json", cwd=tmp_path)
    hits = json.loads(assert_done(finish(search)))
    assert [hit["rank"] for hit in hits] == [1, 2]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """Images, and what torchrun said as two ranks trained on them into `run`."""
    folder = tmp_path_factory.mktemp("two-ranks")
    data = make_folder(folder / "photos")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    words = ("-m", "diptych", "train", "clip", "--data", data, *TINY, "--out", "run")
    return data, folder / "run", finish(shell(*words, program=torchrun, cwd=folder))


def test_two_ranks_train_one_model_and_one_speaks(two_ranks):
    _, run, called = two_ranks
    assert called.code == 0, called
    assert start_event(run)["world_size"] == 2
    assert called.out.count("holds the model") == 1
    assert (run / "model.json").is_file()


def test_two_nodes_train_the_model_of_two_ranks_of_one(two_ranks, tmp_path):
    """Two process groups that share the data and nothing else: only the first node writes."""
    data, run, _ = two_ranks
    words = ("-m", "diptych", "train", "clip", "--data", data, *TINY, "--out", "run")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "1", "--nnodes", "2")
    started = []
    for node in ("0", "1"):
        (tmp_path / node).mkdir()
        place = ("--master_addr", "127.0.0.1", "--master_port", port)
        program = (*launcher, "--node_rank", node, *place)
        started.append(shell(*words, program=program, cwd=tmp_path / node))
    for process in started:
        assert_done(finish(process))
    assert start_event(tmp_path / "0" / "run")["world_size"] == 2
    assert list((tmp_path / "1").iterdir()) == []
    assert weights(tmp_path / "0" / "run") == weights(run)


def test_two_ranks_embed_to_the_bytes_of_one_process(tmp_path, diptych):
    data = make_tar(tmp_path / "web.tar")
    words = ("embed", "tiny", data, "--batch-size", "4", "--out")
    assert diptych(*words, tmp_path / "one").code == 0
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    called = finish(shell("-m", "diptych", *words, tmp_path / "two", program=torchrun))
    assert called.code == 0, called
    assert called.out.count("holds the embeddings") == 1
    for path in (tmp_path / "one").rglob("*.*"):
        assert (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes() == (
            path.read_bytes()
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two", "web.tar"]


def test_a_killed_run_resumes_to_the_bits_of_an_unbroken_one(tmp_path, train, diptych):
    """RELIABILITY 1, 2: SIGKILL at step 2, the last checkpoint at 2 of 5."""
    data = make_folder(tmp_path / "photos")
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    options = ("--steps", "5", "--save-every", "2", "--recipe.ema", "0.9")
    assert train(data, unbroken, *options).code == 0
    program = ("-c", AT_STEP.format(what="os.kill(os.getpid(), signal.SIGKILL)"))
    called = finish(
        shell("train", "clip", "--data", data, *TINY, "--out", killed, *options, program=program)
    )
    assert called.code == -signal.SIGKILL
    assert not (killed / "model.safetensors").exists()
    (killed / "state" / ".step-000000004.1.tmp").mkdir()  # as a kill while writing leaves it
    assert diptych("train", "--resume", "--out", killed).code == 0
    assert weights(killed) == weights(unbroken)
    assert load_file(killed / "model.safetensors")
    assert not [path for path in killed.rglob("*") if ".tmp" in path.name]


def test_sigterm_saves_exits_0_and_says_how_to_go_on(tmp_path, train, diptych):
    """RELIABILITY 3."""
    data, run = make_folder(tmp_path / "photos"), tmp_path / "run"
    program = ("-c", AT_STEP.format(what='print("here", flush=True)'))
    process = shell(
        "train", "clip", "--data", data, *TINY, "--steps", "9999", "--out", run, program=program
    )
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    called = finish(process)
    assert called.code == 0, called
    assert called.err.splitlines()[-1].endswith(f"go on with: diptych train --resume --out {run}")
    assert len(list((run / "state").glob("step-*"))) == 1
    assert not (run / "model.json").exists()
    assert f"diptych train --resume --out {run}" in diptych("info", run).err
