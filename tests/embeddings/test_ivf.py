"""The index of a folder of embeddings: recall, adding and removing rows, builds that die,
refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.embeddings.helpers import DIMENSION, folder_of, near, recall, unit

from diptych.cli import main
from diptych.embeddings import build
from diptych.embeddings.build import build_index
from diptych.embeddings.index import Index
from diptych.embeddings.ivf import State
from diptych.embeddings.vectors import take
from diptych.errors import InputError
from diptych.files import locked

ROWS = 4000


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = folder_of(
        tmp_path_factory.mktemp("built") / "emb", near(ROWS, 1), unit(near(ROWS, 2) + 0.3)
    )
    build_index(folder)
    return folder


@pytest.fixture
def emb(built, tmp_path):
    """An indexed folder of one's own."""
    shutil.copytree(built, tmp_path / "emb")
    return tmp_path / "emb"


def keys(index, queries, k=10):
    scores, rows = index.top(queries, k)
    return [[hit.key for hit in index.hits(*both)] for both in zip(scores, rows, strict=True)]


def test_few_rows_have_an_index_of_all_but_one(tmp_path):
    folder = folder_of(tmp_path / "emb", near(12, 1))
    assert build_index(folder).k == 11
    assert build_index(folder, remove=["k0", "k1"]).k == 9
    with pytest.raises(InputError, match="has 10 rows for 10 hits"):
        build_index(folder, k=10)


def test_a_search_starts_no_threads_that_read_ahead(built):
    lists = faiss.downcast_InvertedLists(Index.open(built).ivf._index.invlists)
    assert type(lists).__name__ == "OnDiskInvertedLists"
    assert lists.prefetch_nthread == 0


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_recall_on_queries_never_seen_is_at_least_what_is_stated_with_few_lists_read(built, seed):
    state = State.read(built)
    assert state is not None
    assert state.nprobe < state.lists / 2
    assert set(state.measured) == {"images", "texts"}
    assert min(state.measured.values()) >= state.recall == 0.99
    assert recall(built, torch.from_numpy(near(400, seed))) >= state.recall
    assert recall(built, torch.from_numpy(unit(near(400, seed) + 0.3))) >= state.recall


def test_the_recall_that_was_measured_is_that_of_a_plain_count(emb):
    state = build_index(emb, recall=0.8, k=5)
    kept, index, vectors = np.arange(ROWS), Index.open(emb), near(ROWS, 1)
    held_out = build.generator(0, "held out").permutation(kept)[: state.held_out]
    hits = 0
    for row in held_out:
        truth = vectors @ vectors[row]
        truth[row] = -2
        found = [
            int(other)
            for other in index.ivf.top(torch.from_numpy(vectors[row])[None], 6, index.rows)[1][0]
            if other != row
        ]
        hits += sum(truth[other] >= np.sort(truth)[-5] - 1e-6 for other in found[:5])
    assert state.measured["images"] == pytest.approx(hits / 5 / len(held_out), abs=1e-3)
    assert 0.8 <= min(state.measured.values()) < 0.99


def test_answers_have_the_form_of_exact_ones_and_are_the_same_every_time(built):
    queries = torch.from_numpy(near(50, 5))
    ours, exact = Index.open(built), Index.open(built, exact=True)
    scores, rows = ours.top(queries, 10)
    true_scores, true_rows = exact.top(queries, 10)
    assert (scores.dtype, rows.dtype, scores.shape) == (
        true_scores.dtype,
        true_rows.dtype,
        true_scores.shape,
    )
    same = rows == true_rows
    assert same.float().mean() > 0.95
    torch.testing.assert_close(scores[same], true_scores[same], atol=1e-6, rtol=0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(Index.open(built).top(queries, 10), (scores, rows), strict=True)
    )
    best, true = ours.hits(scores[0], rows[0])[0], exact.hits(true_scores[0], true_rows[0])[0]
    assert (best.rank, best.key, best.position) == (true.rank, true.key, true.position)


def test_two_builds_of_the_same_rows_are_equal_to_the_byte(emb, built):
    state = build_index(emb)
    old = State.read(built)
    assert old is not None
    assert (emb / state.file).read_bytes() == (built / old.file).read_bytes()
    assert (state.nprobe, state.measured) == (old.nprobe, old.measured)


def test_more_hits_than_the_recall_speaks_of_are_exact(built):
    queries = torch.from_numpy(near(20, 6))
    assert torch.equal(
        Index.open(built).top(queries, 11)[1], Index.open(built, exact=True).top(queries, 11)[1]
    )


def test_a_query_whose_lists_hold_too_few_rows_is_answered_exactly(tmp_path):
    lonely = np.eye(DIMENSION, dtype=np.float32)[:1]
    few = unit(np.concatenate([lonely, -lonely + 0.3 * near(500, 1)]))
    folder = folder_of(tmp_path / "emb", few)
    state = build_index(folder, recall=0.5, lists=100, k=10)
    index = Index.open(folder)
    queries = torch.from_numpy(lonely)
    assert (index.ivf.top(queries, 10, index.rows)[1] < 0).any(), state
    assert torch.equal(
        index.top(queries, 10)[1], Index.open(folder, exact=True).top(queries, 10)[1]
    )


def test_rows_of_another_folder_are_found_after_adding_it_and_the_recall_holds(emb, tmp_path):
    folder_of(tmp_path / "more", unit(-near(1000, 3)), name="new")
    before = State.read(emb)
    state = build_index(emb, add=[tmp_path / "more"])
    assert before is not None
    assert (state.lists, [part.count for part in state.parts]) == (before.lists, [ROWS, 1000])
    queries = torch.from_numpy(unit(-near(1, 8)))
    assert len(Index.open(emb)) == len(Index.open(emb, exact=True)) == ROWS + 1000
    assert keys(Index.open(emb), queries)[0][0].startswith("new")
    asked = np.concatenate([near(320, 9), unit(-near(80, 8))])  # in the shares of the rows
    assert recall(emb, torch.from_numpy(asked)) >= 0.99
    hit = Index.open(emb).hits(torch.ones(1), torch.tensor([ROWS + 7]))[0]
    assert (hit.key, hit.position) == ("new7", 7)
    with pytest.raises(InputError, match="is in the index of .* already"):
        build_index(emb, add=[tmp_path / "more"])


def test_removed_rows_are_found_no_more_exactly_or_not_or_after_a_rebuild(emb):
    queries = torch.from_numpy(near(ROWS, 1)[[5, 3999]])
    assert [found[0] for found in keys(Index.open(emb), queries)] == ["k5", "k3999"]
    build_index(emb, remove=["k5"])
    build_index(emb, remove=["k3999", "k5"])
    for again in range(2):
        for exact in (True, False):
            index = Index.open(emb, exact=exact)
            assert len(index) == ROWS - 2
            assert not {"k5", "k3999"} & {key for found in keys(index, queries) for key in found}, (
                exact,
                again,
            )
        build_index(emb)
    everything = Index.open(emb).top(queries, ROWS)[1]
    assert everything.shape[1] == ROWS - 2
    with pytest.raises(InputError, match="no row of .* has the key 'nobody'"):
        build_index(emb, remove=["nobody"])


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_take_is_indexing_of_the_whole(cuts, seed):
    whole = np.arange(sum(cuts) * 2).reshape(-1, 2)
    rows = np.random.default_rng(seed).integers(0, len(whole), 12)
    np.testing.assert_array_equal(take(np.split(whole, np.cumsum(cuts)[:-1]), rows), whole[rows])


DYING = """
import os, signal, sys
import faiss
from diptych.embeddings import build, ivf
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
def half(index, path):
    open(path, "wb").write(b"IwFl" * 1000)
    die()
for moment in ("half", "unnamed", "swept"):
    if os.fork():
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        continue
    if moment == "half":
        faiss.write_index = half
    elif moment == "unnamed":
        ivf.State.write = die
    else:
        build._sweep = lambda folder, state: die() if state.file == "index-1.faiss" else None
    build.build_index(os.path.join(sys.argv[1], moment), remove=["k5"])
    os._exit(0)  # it lived
"""


def test_kill_9_at_any_moment_of_a_build_leaves_the_old_index_or_the_new_one_served(
    built, tmp_path
):
    queries = torch.from_numpy(near(ROWS, 1)[[5]])
    before = Index.open(built).top(queries, 10)
    moments = ("half", "unnamed", "swept")
    for moment in moments:
        shutil.copytree(built, tmp_path / moment)
    words = [sys.executable, "-c", DYING, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    died = subprocess.run(
        words, env=environment, stdout=subprocess.PIPE, text=True, timeout=120, check=True
    ).stdout
    assert died.split() == [str(-signal.SIGKILL)] * len(moments)
    for moment in moments:
        folder = tmp_path / moment
        left = {path.name for path in folder.iterdir() if "faiss" in path.name}
        assert len(left) == 2, left  # the file that is served, and what the death left
        index = Index.open(folder)
        if moment == "swept":
            assert index.removed == (5,)
        else:
            assert all(
                torch.equal(a, b) for a, b in zip(index.top(queries, 10), before, strict=True)
            )
        state = build_index(folder, remove=["k6"])
        assert {path.name for path in folder.iterdir() if "faiss" in path.name} == {state.file}


def test_a_reader_that_opened_before_a_rebuild_goes_on_with_the_old_index(emb):
    queries = torch.from_numpy(near(20, 6))
    index = Index.open(emb)
    before = index.top(queries, 10)
    build_index(emb, remove=["k1"])
    assert all(torch.equal(a, b) for a, b in zip(index.top(queries, 10), before, strict=True))


def test_a_rebuild_between_reading_the_state_and_the_file_is_met_by_reading_again(emb, monkeypatch):
    read, old = State.read, State.read(emb)
    build_index(emb, remove=["k1"])
    answers = [old]
    monkeypatch.setattr(State, "read", lambda folder: answers.pop() if answers else read(folder))
    assert Index.open(emb).removed == (1,)


def test_a_full_disk_says_so_and_leaves_the_old_index(emb, monkeypatch):
    import faiss

    write = faiss.write_index
    monkeypatch.setattr(faiss, "write_index", lambda index, path: write(index, "/dev/full"))
    with pytest.raises(InputError, match="no space left"):
        build_index(emb, remove=["k5"])
    monkeypatch.undo()
    assert Index.open(emb).removed == ()
    assert [path.name for path in emb.glob("*index*")] == [path.name for path in emb.glob("index*")]


def test_one_build_at_a_time(emb):
    with locked(emb, "busy"), pytest.raises(InputError, match="another build"):
        build_index(emb)


def test_an_index_of_another_model_dimension_or_state_of_the_folder_is_refused(emb, tmp_path):
    folder_of(tmp_path / "other", near(50, 1), identity="sha256:other")
    with pytest.raises(InputError, match="was embedded with m .*embed it with that model"):
        build_index(emb, add=[tmp_path / "other"])
    folder_of(tmp_path / "wide", unit(np.ones((50, 5))))
    with pytest.raises(InputError, match="5 numbers"):
        build_index(emb, add=[tmp_path / "wide"])
    for wrong in (tmp_path / "other", tmp_path / "wide"):
        for path in emb.glob("index*"):
            shutil.copy(path, wrong)
        for action in (Index.open, build_index):
            with pytest.raises(InputError, match=r"is of another model .*remove .*index\.json"):
                action(wrong)
    np.save(emb / "img_emb/img_emb_0.npy", near(ROWS // 2, 77))
    with pytest.raises(InputError, match="is not as it was when"):
        Index.open(emb)
    (emb / "index.json").unlink()
    assert Index.open(emb).ivf is None


def test_damaged_indices_are_refused_with_the_remedy(emb):
    state = State.read(emb)
    assert state is not None
    file, text = emb / state.file, (emb / "index.json").read_text()
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"is damaged .*remove .*index\.json"):
        Index.open(emb)
    file.unlink()
    with pytest.raises(InputError, match="is missing"):
        Index.open(emb)
    assert len(Index.open(emb, exact=True)) == ROWS
    file.write_bytes(whole)
    for bad in ("{", "[]", '{"format": "diptych-index/2"}', text.replace("index/2", "index/9")):
        (emb / "index.json").write_text(bad)
        with pytest.raises(InputError, match=r"remove .*index\.json"):
            Index.open(emb)
    (emb / "index.json").write_text(json.dumps({**json.loads(text), "removed": [3]}))
    with pytest.raises(InputError, match="holds 4000 rows"):
        Index.open(emb)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"recall": 1.0}, "below 1"),
        ({"recall": 0.0}, "below 1"),
        ({"k": 0}, "at least 1"),
        ({"lists": 0}, "lists is 0"),
        ({"lists": 9999}, "lists is 9999"),
        ({"k": ROWS}, "an index is for more"),
    ],
)
def test_values_out_of_range_are_refused(emb, bad, message):
    with pytest.raises(InputError, match=message):
        build_index(emb, **bad)


def test_without_faiss_the_extra_and_exact_search_are_named(emb, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"diptych\[search\].*--exact"):
        Index.open(emb)
    assert Index.open(emb, exact=True).ivf is None


def test_the_command_builds_adds_and_removes(emb, tmp_path, capsys):
    folder_of(tmp_path / "more", unit(-near(200, 3)), name="new")
    words = [
        "index",
        str(emb),
        "--add",
        str(tmp_path / "more"),
        "--remove",
        "k5",
        "--remove",
        "k6",
        "--recall",
        "0.9",
    ]
    assert main(words) == 0
    assert "recall of the 50 nearest on held-out queries is 0.9" in capsys.readouterr().out
    state = State.read(emb)
    assert state is not None
    assert (state.removed, state.recall, len(state.parts)) == ((5, 6), 0.9, 2)
    assert main(["index"]) == 2
    assert "no folder" in capsys.readouterr().err
