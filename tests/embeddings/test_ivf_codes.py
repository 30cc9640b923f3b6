"""An index of codes: its answers are exact, its recall is what it states, and it stays one."""

import json
import mmap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.embeddings.helpers import DIMENSION, folder_of, near, recall, unit

from diptych.cli import main
from diptych.embeddings.build import build_index
from diptych.embeddings.index import Index
from diptych.embeddings.ivf import State
from diptych.errors import InputError

ROWS = 2000
QUERIES = torch.from_numpy(near(300, 7))


@pytest.fixture
def emb(tmp_path):
    return folder_of(tmp_path / "emb", near(ROWS, 1))


def test_recall_on_queries_never_seen_is_what_is_stated_from_half_the_bytes(tmp_path):
    emb = folder_of(tmp_path / "emb", near(ROWS, 1), unit(near(ROWS, 2) + 0.3))
    state = build_index(emb, compress=True)
    assert (state.codes, state.recall) == ("6-bit", 0.99)
    assert state.size < 0.5 * ROWS * (4 * DIMENSION + 8)  # vectors, and their numbers
    assert state.k <= state.candidates < ROWS / 10
    assert state.nprobe < state.lists / 2
    assert set(state.measured) == {"images", "texts"}
    assert min(state.measured.values()) >= state.recall
    assert recall(emb, QUERIES) >= state.recall
    assert recall(emb, torch.from_numpy(unit(near(300, 8) + 0.3))) >= state.recall


def test_answers_are_those_of_exact_search_where_all_are_compared(tmp_path):
    """Every vector is there three times, so that the order of equal scores shows."""
    vectors = np.concatenate([near(90, 1)] * 3)
    emb = folder_of(tmp_path / "emb", vectors)
    build_index(emb, lists=4, recall=0.5, compress=True)
    index = Index.open(emb)
    assert index.ivf is not None
    index.ivf.state = replace(index.ivf.state, nprobe=4, candidates=len(vectors))
    for count in (1, 300):  # alone, and in several goes
        scores, rows = index.top(QUERIES[:count], 10)
        true_scores, true_rows = Index.open(emb, exact=True).top(QUERIES[:count], 10)
        assert torch.equal(rows, true_rows)
        torch.testing.assert_close(scores, true_scores, atol=1e-6, rtol=0)


def test_a_search_among_some_rows_and_for_more_hits_is_exact(emb):
    build_index(emb, recall=0.5, k=10, compress=True)
    index = Index.open(emb)
    exact = Index.open(emb, exact=True)
    some = np.arange(ROWS) % 7 == 0
    assert torch.equal(index.top(QUERIES, 10, some)[1], exact.top(QUERIES, 10, some)[1])
    assert torch.equal(index.top(QUERIES, 11)[1], exact.top(QUERIES, 11)[1])


def test_a_query_whose_lists_hold_too_few_rows_is_answered_exactly(tmp_path):
    lonely = np.eye(DIMENSION, dtype=np.float32)[:1]
    few = unit(np.concatenate([lonely, -lonely + 0.3 * near(500, 1)]))
    emb = folder_of(tmp_path / "emb", few)
    build_index(emb, recall=0.5, lists=100, k=10, compress=True)
    index = Index.open(emb)
    assert index.ivf is not None
    queries = torch.from_numpy(lonely)
    scores, rows = index.ivf.top(queries, 10, index.rows)
    assert (rows[0] >= 0).tolist() == scores[0].isfinite().tolist()
    assert (rows < 0).any()
    exact = Index.open(emb, exact=True).top(queries, 10)
    assert torch.equal(index.top(queries, 10)[1], exact[1])


def test_adding_removing_and_rebuilding_keep_the_codes_until_others_are_asked_for(emb, tmp_path):
    more = folder_of(tmp_path / "more", unit(-near(500, 3)), name="new")
    old = build_index(emb, remove=["k5"], lists=20)
    # the lists of vectors are built anew as lists of codes
    state = build_index(emb, add=[more], compress=True)
    assert state.lists > old.lists
    assert (old.codes, state.codes) == ("flat", "6-bit")
    assert state.removed == (5,)
    for remove, lists in ((["new7"], None), ([], None), ([], 30)):
        state = build_index(emb, remove=remove, lists=lists)
        assert state.codes == "6-bit"
        assert state.removed == (5, ROWS + 7)
        index = Index.open(emb)
        rows = index.top(torch.from_numpy(unit(-near(500, 3))[[7, 8]]), 1)[1]
        assert rows[0] != ROWS + 7
        assert rows[1] == ROWS + 8
    state = build_index(emb, compress=False)
    assert (state.codes, state.candidates, state.removed) == ("flat", 0, (5, ROWS + 7))


def test_a_recall_that_codes_do_not_reach_is_refused_and_the_old_index_stays(tmp_path):
    """A far row in each direction makes the steps of the codes wide, and the others differ by
    less."""
    centre = np.ones((1, DIMENSION))
    close = centre + 1e-3 * np.random.default_rng(0).normal(size=(3000, DIMENSION))
    far = np.concatenate([np.eye(DIMENSION), -np.eye(DIMENSION)] * 2)
    emb = folder_of(tmp_path / "emb", unit(np.concatenate([close, far])))
    old = build_index(emb, lists=1)
    with pytest.raises(
        InputError, match=r"6-bit reach a recall of 0\.\d+ for images .*ask for less"
    ):
        build_index(emb, lists=1, k=1, compress=True)
    assert State.read(emb) == old
    assert {path.name for path in emb.glob("*index*")} == {"index.json", old.file}


def test_rows_that_codes_do_not_fit_are_added_where_codes_are_fitted_anew(tmp_path):
    """Of rows on the other side all differences from the centres are beyond the range of codes."""
    centre = np.ones((1, DIMENSION))
    noise = np.random.default_rng(0).normal(size=(2, 1000, DIMENSION))
    emb = folder_of(tmp_path / "emb", unit(centre + 0.1 * noise[0]))
    more = folder_of(tmp_path / "more", unit(-centre + 0.1 * noise[1]), name="new")
    build_index(emb, lists=5, k=10, compress=True)
    with pytest.raises(InputError, match="give the number of lists, which fits codes anew"):
        build_index(emb, add=[more])
    assert len(Index.open(emb)) == 1000
    build_index(emb, add=[more], lists=5)
    assert recall(emb, torch.from_numpy(unit(-centre + 0.1 * noise[0][:200]))) >= 0.98


def test_an_index_of_the_format_before_is_read_and_keeps_its_removed_rows(emb):
    build_index(emb, remove=["k5"], lists=20)
    answers = Index.open(emb).top(QUERIES, 10)
    values = json.loads((emb / "index.json").read_text())
    del values["codes"], values["candidates"]
    (emb / "index.json").write_text(json.dumps({**values, "format": "diptych-index/1"}))
    assert all(
        torch.equal(a, b) for a, b in zip(Index.open(emb).top(QUERIES, 10), answers, strict=True)
    )
    state = build_index(emb, lists=20, compress=True)
    assert (state.format, state.codes, state.removed) == ("diptych-index/2", "6-bit", (5,))


def test_codes_that_do_not_fit_the_file_are_refused(emb):
    build_index(emb, lists=20, compress=True)
    values = json.loads((emb / "index.json").read_text())
    for wrong, message in (
        ({"codes": "flat"}, r"flat codes, \d+ candidates"),
        ({"candidates": 0}, "6-bit codes, 0 candidates"),
        ({"codes": "flat", "candidates": 0}, r"holds other codes than index\.json says"),
        ({"codes": "5-bit"}, "'codes' is '5-bit'"),
    ):
        (emb / "index.json").write_text(json.dumps({**values, **wrong}))
        with pytest.raises(InputError, match=rf"{message}.*remove .*index\.json"):
            Index.open(emb)


def test_a_search_holds_none_of_the_vectors_that_it_reads(emb):
    build_index(emb, lists=20, compress=True)
    index = Index.open(emb)
    index.top(QUERIES, 10)
    starts = [f"{vectors.ctypes.data & -mmap.PAGESIZE:x}-" for vectors in index.vectors]
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    mine = (line for line in lines if line.startswith(tuple(starts)))
    held = [next(line for line in lines if line.startswith("Rss:")).split()[1] for _ in mine]
    assert held == ["0", "0"]


def test_the_command_compresses_and_says_what_a_search_reads(emb, capsys):
    assert main(["index", str(emb), "--compress", "--recall", "0.9"]) == 0
    state = State.read(emb)
    assert state is not None
    said = capsys.readouterr()
    assert f"{state.nprobe:,}, and {state.candidates:,} vectors" in said.err + said.out
    assert "recall of the 50 nearest on held-out queries is 0.9" in said.out
