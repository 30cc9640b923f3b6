"""The map of a folder of embeddings: places, neighbours, duplicates, outliers, and what it refuses."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from tests.embeddings.helpers import folder_of, near, unit

from diptych.cli import main
from diptych.embeddings import map as maps
from diptych.embeddings.build import build_index
from diptych.embeddings.index import Index
from diptych.embeddings.map import NEAREST, Map, State, build_map
from diptych.errors import InputError
from diptych.files import locked

ROWS = 200


@pytest.fixture
def vectors():
    return near(ROWS, seed=1)


@pytest.fixture
def emb(tmp_path, vectors):
    return folder_of(tmp_path / "emb", vectors)


def opened(folder):
    return Map.open(Index.open(folder))


def slow(vectors):
    """The nearest other rows of each row and their cosines, one row after the other, in float64."""
    wide = vectors.astype(np.float64)
    found = []
    for row, vector in enumerate(wide):
        others = [(float(vector @ other), at) for at, other in enumerate(wide) if at != row]
        found.append(sorted(others, reverse=True)[:NEAREST])
    return found


def joined(vectors, cosine):
    """Rows joined by cosines, by repeated union: the groups of two or more, as sets."""
    group = list(range(len(vectors)))
    for row, neighbours in enumerate(slow(vectors)):
        for value, other in neighbours:
            if value >= cosine:
                old, new = group[other], group[row]
                group = [new if number == old else number for number in group]
    sets = [{row for row, number in enumerate(group) if number == each} for each in set(group)]
    return {frozenset(rows) for rows in sets if len(rows) > 1}


@pytest.mark.parametrize("indexed", [False, True])
def test_neighbours_are_those_of_every_pair(emb, vectors, indexed):
    if indexed:
        build_index(emb, lists=4, recall=0.999999)  # reads every list
    seen = []
    build_map(emb, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (ROWS, ROWS)
    records = opened(emb)._records
    for row, neighbours in enumerate(slow(vectors)):
        cosines = [value for value, _ in neighbours]
        np.testing.assert_allclose(records["cosines"][row], cosines, atol=2e-6)
        own = vectors[records["nearest"][row]] @ vectors[row]
        np.testing.assert_allclose(own, cosines, atol=2e-6)
        assert row not in records["nearest"][row]


def test_places_are_the_first_two_principal_components(emb, vectors):
    build_map(emb)
    made = opened(emb)
    places = made.places(np.arange(ROWS))
    assert places.min() == 0
    assert places.max() == 1
    centred = vectors.astype(np.float64) - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].T
    # up to the sign and the extent of an axis, which is the same for both
    apart = places - places.mean(0)
    scale = np.abs(apart).sum(0) / np.abs(expected).sum(0)
    assert scale[0] == pytest.approx(scale[1], rel=1e-4)
    np.testing.assert_allclose(np.abs(apart), np.abs(expected) * scale, atol=1e-4)
    assert made.place(7) == pytest.approx(places[7])


def test_equal_rows_have_places_too(tmp_path):
    folder = folder_of(tmp_path / "emb", unit(np.ones((30, 4))))
    build_map(folder)
    made = opened(folder)
    assert np.isfinite(made.places(np.arange(30))).all()
    (group,) = made.duplicates(0.999)
    assert list(group.rows) == list(range(30))
    assert group.cosine == pytest.approx(1)


@pytest.mark.parametrize("cosine", [0.8, 0.9, 0.97])
def test_duplicates_are_joined_by_their_cosines(emb, vectors, cosine):
    build_map(emb)
    groups = opened(emb).duplicates(cosine)
    assert {frozenset(group.rows.tolist()) for group in groups} == joined(vectors, cosine)
    sizes = [len(group.rows) for group in groups]
    assert sizes == sorted(sizes, reverse=True)
    for group in groups:
        pairs = vectors[group.rows] @ vectors[group.rows].T
        np.fill_diagonal(pairs, -1)
        assert group.cosine == pytest.approx(pairs.max(), abs=2e-6)
        assert list(group.rows) == sorted(group.rows)


def test_the_farthest_are_first(emb, vectors):
    build_map(emb)
    rows, means = opened(emb).outliers()
    expected = [np.mean([value for value, _ in neighbours]) for neighbours in slow(vectors)]
    assert sorted(rows) == list(range(ROWS))
    assert list(means) == sorted(means)
    np.testing.assert_allclose(means, np.array(expected)[rows], atol=2e-6)


def test_a_filter_chooses_among_duplicates_and_outliers(emb, vectors):
    build_map(emb)
    made = opened(emb)
    passing = np.arange(ROWS) % 2 == 0
    rows, _ = made.outliers(passing)
    assert set(rows) == set(range(0, ROWS, 2))
    every = made.outliers()[0]
    assert list(rows) == [row for row in every if row % 2 == 0]
    groups = made.duplicates(0.8, passing)
    assert groups
    assert all(row % 2 == 0 for group in groups for row in group.rows)
    assert made.duplicates(0.8, np.zeros(ROWS, bool)) == []


def test_removed_rows_are_on_no_map(emb, vectors):
    build_index(emb, lists=4)
    build_map(emb)
    before = opened(emb)
    alike = before.duplicates(0.8)[0].rows
    build_index(emb, remove=[f"k{alike[0]}"])
    after = opened(emb)  # of the same folders: it stays in use
    assert after.state == before.state
    assert alike[0] not in {row for group in after.duplicates(0.8) for row in group.rows}
    assert alike[0] not in after.outliers()[0]
    build_map(emb)
    anew = opened(emb)
    assert anew.place(alike[0]) is None
    assert not (anew._records["nearest"] == alike[0]).any()
    assert len(anew.outliers()[0]) == ROWS - 1


def test_a_map_covers_folders_that_were_added(emb, tmp_path):
    more = folder_of(tmp_path / "more", near(50, seed=2), name="m")
    build_map(emb)
    build_index(emb, add=[more])
    with pytest.raises(InputError, match=r"map\.json is of other rows .*--map"):
        opened(emb)
    build_map(emb)
    assert len(opened(emb).outliers()[0]) == ROWS + 50


def test_umap_is_asked_for_two_dimensions(emb, vectors, monkeypatch):
    asked = {}

    class Umap:
        def __init__(self, **settings):
            asked.update(settings)

        def fit(self, rows):
            self.embedding_ = rows[:, :2]

        def transform(self, rows):
            return rows[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Umap))
    monkeypatch.setattr(maps, "_FITTED", 100)  # so that it projects what it was not fitted to
    assert build_map(emb, "umap").projection == "umap"
    assert (asked["n_components"], asked["metric"]) == (2, "cosine")
    places = opened(emb).places(np.arange(ROWS))
    extent = np.ptp(vectors[:, :2], axis=0).max()
    np.testing.assert_allclose(
        np.diff(places, axis=0), np.diff(vectors[:, :2], axis=0) / extent, atol=1e-5
    )


def test_a_missing_library_is_named(emb, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match="pip install umap-learn"):
        build_map(emb, "umap")
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    with pytest.raises(InputError, match="scikit-learn"):
        build_map(emb)
    assert State.read(emb) is None
    assert not list(emb.glob("*map*"))


def test_a_build_that_fails_leaves_the_map_in_use(emb, monkeypatch):
    build_map(emb)
    before = opened(emb)

    def interrupted(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_map(emb, progress=interrupted)
    assert opened(emb).state == before.state
    assert sorted(path.name for path in emb.glob("*map*")) == ["map-0.npy", "map.json"]
    with (
        locked(emb, "the test holds it"),
        pytest.raises(InputError, match="another build .* is under way"),
    ):
        build_map(emb)
    build_map(emb)
    assert sorted(path.name for path in emb.glob("*map*")) == ["map-1.npy", "map.json"]


def test_damage_is_named_with_the_remedy(emb, tmp_path, vectors):
    build_map(emb)
    data = (emb / "map-0.npy").read_bytes()
    state = json.loads((emb / "map.json").read_text())
    for damaged in (b"", data[:-5], data + b"x", b"\x93NUMPY", b"no array"):
        (emb / "map-0.npy").write_bytes(damaged)
        with pytest.raises(InputError, match=r"map-0\.npy is damaged.*--map"):
            opened(emb)
    (emb / "map-0.npy").unlink()
    with pytest.raises(InputError, match=r"map-0\.npy is damaged.*--map"):
        opened(emb)
    (emb / "map-0.npy").write_bytes(data)
    for changed in (
        {"format": "diptych-map/9"},
        {"file": "../map-0.npy"},
        {"projection": "other"},
        {"parts": [{}]},
        {"size": "many"},
    ):
        (emb / "map.json").write_text(json.dumps(state | changed))
        with pytest.raises(InputError, match=r"map\.json.*--map"):
            opened(emb)
    (emb / "map.json").write_text(json.dumps(state))
    assert opened(emb) is not None
    other = folder_of(tmp_path / "other", near(ROWS, seed=9))
    for name in ("map.json", "map-0.npy"):
        (other / name).write_bytes((emb / name).read_bytes())
    with pytest.raises(InputError, match="is of other rows"):
        opened(other)


def test_too_few_rows_are_refused(tmp_path):
    with pytest.raises(InputError, match="2 rows; a map is of 3 or more"):
        build_map(folder_of(tmp_path / "emb", near(2, seed=0)))
    few = folder_of(tmp_path / "few", near(3, seed=0))
    build_map(few)
    assert (opened(few)._records["nearest"] >= 0).sum(1).tolist() == [2, 2, 2]


def test_the_command_makes_a_map(emb, capsys):
    assert main(["index", str(emb), "--map"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{emb} has a map by pca; look at it with: diptych serve {emb}\n"
    alike = sum(len(group.rows) for group in opened(emb).duplicates())
    assert f"{alike:,} of {ROWS} rows have a cosine of 0.95 or more with another row" in said.err
    assert not (emb / "index.json").exists()
    for words, part in (
        (["--map", "--projection", "tsne"], "umap"),
        (["--projection", "pca"], "--map"),
        (["--map", "--recall", "0.9"], "--recall is of the index"),
    ):
        assert main(["index", str(emb), *words]) == 2
        error = capsys.readouterr().err
        assert part in error
        assert error.count("\n") == 1
