"""Writing to a Lance dataset: versions, changes that die, damage, refusals."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import lance
import numpy as np
import pyarrow
import pytest
import torch
from tests.embeddings.helpers import folder_of, near, unit

import diptych
from diptych.cli import main
from diptych.embeddings.build import build_index
from diptych.embeddings.lance.build import change_store, write_store
from diptych.embeddings.lance.store import Store
from diptych.embeddings.lance.table import STATE, UNFINISHED
from diptych.errors import InputError
from diptych.files import locked

COUNT = 400
LISTS = 8


@pytest.fixture(scope="module")
def emb(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("emb") / "emb", near(COUNT, 1))


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("more") / "more", unit(-near(100, 3)), name="new")


@pytest.fixture(scope="module")
def built(emb, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "shop"
    write_store(emb, f"lancedb:{folder}", lists=LISTS)
    return folder


@pytest.fixture
def shop(built, tmp_path):
    """A store of one's own, by its address."""
    shutil.copytree(built, tmp_path / "shop")
    return f"lancedb:{tmp_path / 'shop'}"


def keys(store):
    return {key for _, batch in store.batches(["key"]) for key in batch["key"].to_pylist()}


def tags(name):
    return set(lance.dataset(name.removeprefix("lancedb:")).tags.list())


KEYS = {f"k{row}" for row in range(COUNT)}
NEW = {f"new{row}" for row in range(100)}


def test_every_change_makes_a_version_and_older_ones_stay(shop, more):
    first = Store.open(shop).version
    added = change_store(shop, add=[more])
    assert (len(added), keys(added)) == (COUNT + 100, KEYS | NEW)
    assert added.state is not None
    assert (added.state.lists, len(added.state.fingerprints)) == (LISTS, 2)
    queries = torch.from_numpy(unit(-near(3, 8)))
    scores, rows = added.top(queries, 5)
    assert added.hits(scores[0], rows[0])[0].key in NEW
    removed = change_store(shop, remove=["k7", "new3"])
    assert keys(removed) == (KEYS | NEW) - {"k7", "new3"}
    rebuilt = change_store(shop, recall=0.9, k=5, lists=4)
    assert keys(rebuilt) == keys(removed)
    assert rebuilt.state is not None
    assert (rebuilt.state.lists, rebuilt.state.recall, rebuilt.most) == (4, 0.9, 5)
    assert first < added.version < removed.version < rebuilt.version
    assert keys(Store.open(f"{shop}:version={first}")) == KEYS
    assert keys(Store.open(f"{shop}:version={added.version}")) == KEYS | NEW
    assert tags(shop) == set()


def test_a_store_is_written_anew_as_a_version(shop, more):
    before = Store.open(shop).version
    anew = write_store(more, shop)
    assert keys(anew) == NEW
    assert (anew.most, anew.top(torch.from_numpy(near(1, 1)), 3)[1].shape) == (0, (1, 3))
    assert keys(Store.open(f"{shop}:version={before}")) == KEYS
    assert keys(change_store(shop, remove=["new1"])) == NEW - {"new1"}  # without an index


def test_what_is_added_and_removed_while_it_is_written(emb, more, tmp_path):
    stored = write_store(emb, f"lancedb:{tmp_path / 's'}", add=[more], remove=["k1", "new1"])
    assert keys(stored) == (KEYS | NEW) - {"k1", "new1"}


def test_whole_numbers_and_decimals_of_a_column_are_stored_as_decimals(tmp_path):
    whole = {"n": ("int", list(range(20)))}
    mixed = {"n": ("int", [*range(19), 0.5])}
    folder_of(tmp_path / "whole", near(20, 1), kept=whole)
    folder_of(tmp_path / "mixed", near(20, 2), kept=mixed, name="m")
    both = write_store(tmp_path / "whole", f"lancedb:{tmp_path / 's'}", add=[tmp_path / "mixed"])
    assert both.kinds["n"] == "float"
    assert both.passing("n = 0.5").nonzero()[0].tolist() == [39]
    write_store(tmp_path / "whole", f"lancedb:{tmp_path / 't'}")
    with pytest.raises(InputError, match=r"'n' does not fit int64.*write the store anew"):
        change_store(f"lancedb:{tmp_path / 't'}", add=[tmp_path / "mixed"])
    assert len(Store.open(f"lancedb:{tmp_path / 't'}")) == 20


def test_folders_of_one_index_may_lack_columns_of_each_other(tmp_path):
    folder_of(tmp_path / "emb", near(20, 1), kept={"n": ("int", list(range(20)))})
    folder_of(tmp_path / "more", near(20, 2), kept={"s": ("text", ["a"] * 20)}, name="m")
    folder_of(tmp_path / "words", near(20, 3), kept={"n": ("text", ["a"] * 20)}, name="w")
    build_index(tmp_path / "emb", add=[tmp_path / "more"], lists=1, k=5)
    both = write_store(tmp_path / "emb", f"lancedb:{tmp_path / 's'}")
    assert both.passing("n is null").nonzero()[0].tolist() == list(range(20, 40))
    assert both.passing("s = 'a'").nonzero()[0].tolist() == list(range(20, 40))
    assert both.manifest.columns == {"n": "int", "s": "text"}
    build_index(tmp_path / "emb", add=[tmp_path / "words"])
    with pytest.raises(InputError, match="words keeps the column 'n' as text and .*emb as int"):
        write_store(tmp_path / "emb", f"lancedb:{tmp_path / 't'}")


def test_a_url_is_an_address(emb, tmp_path):
    url = f"lancedb:file-object-store://{tmp_path}/shop"
    write_store(emb, url)
    change_store(url, remove=["k3"])
    assert keys(Store.open(url)) == KEYS - {"k3"}


DYING = """
import os, signal, sys
from pathlib import Path
from diptych.embeddings.lance import build
root, emb, more = map(Path, sys.argv[1:])
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
POINTS = ("_append", "_delete", "_finish", "_calibrated", "_undo")
for point in (*POINTS, "tag", "new"):
    if os.fork():
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        continue
    if point == "new":
        build._calibrated = die
        build.write_store(emb, f"lancedb:{root / 'new'}", lists=8)
    if point == "tag":
        from lance.dataset import Tags
        Tags.delete = die
    elif point == "_append":
        first = build.batches
        build.batches = lambda *arguments: (die() for _ in first(*arguments))
    elif point == "_undo":  # a change fails, and dies while it is undone
        build._calibrated = lambda *_: 1 / 0
        calls = iter([build._undo, die])
        build._undo = lambda address: next(calls)(address)
    else:
        setattr(build, point, die)
    build.change_store(f"lancedb:{root / point}", add=[more], remove=["k5"])
    os._exit(0)  # it lived
"""


def test_kill_9_at_any_moment_leaves_the_version_of_before(built, emb, more, tmp_path):
    points = ("_append", "_delete", "_finish", "_calibrated", "_undo", "tag")
    for point in points:
        shutil.copytree(built, tmp_path / point)
    words = [sys.executable, "-c", DYING, *map(str, (tmp_path, emb, more))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    died = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, timeout=120)
    assert died.stdout.split() == [str(-signal.SIGKILL)] * (len(points) + 1)
    queries = torch.from_numpy(near(5, 8))
    before = Store.open(f"lancedb:{built}").top(queries, 10)
    for point in points:
        name = f"lancedb:{tmp_path / point}"
        assert tags(name) == {UNFINISHED}
        store = Store.open(name)
        assert keys(store) == KEYS
        assert all(torch.equal(a, b) for a, b in zip(store.top(queries, 10), before, strict=True))
        after = change_store(name, remove=["k6"])  # goes on from there
        assert keys(after) == keys(Store.open(name)) == KEYS - {"k6"}
        assert tags(name) == set()
    with pytest.raises(InputError, match=r"its build was interrupted.*`diptych index EMB --to"):
        Store.open(f"lancedb:{tmp_path / 'new'}")
    with pytest.raises(InputError, match="its build was interrupted"):
        change_store(f"lancedb:{tmp_path / 'new'}", remove=["k6"])
    assert keys(write_store(emb, f"lancedb:{tmp_path / 'new'}", remove=["k6"])) == KEYS - {"k6"}


def test_a_reader_that_opened_before_a_change_goes_on(shop):
    store = Store.open(shop)
    change_store(shop, remove=["k1"])
    assert keys(store) == KEYS


def test_one_change_at_a_time(shop, emb):
    with locked(Path(shop.removeprefix("lancedb:")), "busy"):
        for change in (lambda: change_store(shop), lambda: write_store(emb, shop)):
            with pytest.raises(InputError, match="another build"):
                change()


def test_a_full_disk_says_so_and_leaves_what_was_there(shop, emb, more, tmp_path, monkeypatch):
    def full(reader, *_, **__):
        next(iter(reader))
        raise OSError("LanceError(IO): No space left on device (os error 28), /x/y.rs:1:2")

    monkeypatch.setattr(lance, "write_dataset", full)
    for change in (
        lambda: change_store(shop, add=[more]),
        lambda: write_store(emb, f"lancedb:{tmp_path / 'none'}"),
    ):
        with pytest.raises(InputError, match="no space left.*make room"):
            change()
    assert not (tmp_path / "none").exists()
    assert keys(Store.open(shop)) == KEYS
    assert tags(shop) == set()


def test_folders_that_do_not_fit_are_refused_and_nothing_changes(shop, emb, more, tmp_path):
    folder_of(tmp_path / "other", near(50, 1), identity="sha256:other")
    folder_of(tmp_path / "wide", unit(np.ones((50, 5))))
    folder_of(tmp_path / "price", near(50, 1), kept={"price": ("int", [1] * 50)})
    folder_of(tmp_path / "dots", near(50, 1), kept={"a.b": ("int", [1] * 50)})
    folder_of(tmp_path / "vector", near(50, 1), kept={"vector": ("int", [1] * 50)})
    folder_of(tmp_path / "nan", near(50, 1), kept={"x": ("float", [float("nan")] * 50)})
    before = Store.open(shop).version
    for name, message in {
        "other": "was embedded with m .*embed it with that model",
        "wide": "5 numbers",
        "price": r"keeps other columns \(price\) than .* \(none\)",
    }.items():
        with pytest.raises(InputError, match=message):
            change_store(shop, add=[tmp_path / name])
        with pytest.raises(InputError, match=message):
            write_store(emb, f"lancedb:{tmp_path / 'none'}", add=[tmp_path / name])
    for name, message in {
        "dots": "'a.b', and .* no dots",
        "vector": "'vector', and .* of its own",
        "nan": "'x' holds NaN",
    }.items():
        with pytest.raises(InputError, match=message):
            write_store(tmp_path / name, f"lancedb:{tmp_path / 'none'}")
    for wrong, message in (
        ({"remove": ["nobody"]}, "has the key 'nobody'"),
        ({"remove": ["it's"]}, 'has the key "it\'s"'),
        ({"remove": sorted(KEYS)}, "would be left"),
        ({"add": [emb]}, "is in .* already"),
        ({"add": [more, more]}, "is in .* already"),
        ({"recall": 1.0}, "below 1"),
        ({"k": 0}, "at least 1"),
        ({"lists": COUNT + 1}, f"1 to {COUNT}"),
    ):
        with pytest.raises(InputError, match=message):
            change_store(shop, **wrong)
    with pytest.raises(InputError, match="exists; change it with `diptych index lancedb:"):
        write_store(emb, shop, add=[more])
    with pytest.raises(InputError, match="leave :version=1 out"):
        change_store(f"{shop}:version=1")
    assert not (tmp_path / "none").exists()
    assert keys(Store.open(shop)) == KEYS
    assert tags(shop) == set()
    assert keys(Store.open(f"{shop}:version={before}")) == KEYS


def test_what_is_no_store_of_ours_is_refused(emb, shop, tmp_path):
    theirs = pyarrow.table({"vector": pyarrow.array([[1.0]], pyarrow.list_(pyarrow.float32(), 1))})
    lance.write_dataset(theirs, tmp_path / "theirs")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("a")
    for action in (Store.open, change_store, lambda name: write_store(emb, name)):
        with pytest.raises(InputError, match="table that diptych did not write"):
            action(f"lancedb:{tmp_path / 'theirs'}")
    for name, message in (("full", "is not empty"), ("full/a.txt", "is a file")):
        with pytest.raises(InputError, match=message):
            write_store(emb, f"lancedb:{tmp_path / name}")
    for name in ("full", "full/a.txt", "nowhere"):
        for action in (Store.open, change_store):
            with pytest.raises(InputError, match="holds no LanceDB table; make one with"):
                action(f"lancedb:{tmp_path / name}")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(InputError, match="has no version 99; there are 1 to 3"):
        Store.open(f"{shop}:version=99")
    with pytest.raises(InputError, match="scheme that Lance does not read"):
        Store.open("lancedb:nothing://x")


@pytest.mark.parametrize(
    "damage", ["cut", "zeros", "missing", "index", "state", "format", "column"]
)
def test_damage_is_named_in_one_line_with_the_remedy(shop, damage):
    root = Path(shop.removeprefix("lancedb:"))
    [data] = (root / "data").iterdir()
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-500])
    elif damage == "zeros":
        data.write_bytes(bytes(data.stat().st_size))
    elif damage == "missing":
        data.unlink()
    elif damage == "index":
        for path in (root / "_indices").rglob("*.*"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "column":
        lance.dataset(str(root)).drop_columns(["caption"])
    else:
        text = "{" if damage == "state" else '{"format": "diptych-lance/9"}'
        lance.dataset(str(root)).update_schema_metadata({STATE: text})

    def search():
        store = Store.open(shop)
        scores, rows = store.top(torch.from_numpy(near(1, 1)), 3)
        store.hits(scores[0], rows[0])

    with pytest.raises(InputError) as error:
        search()
    assert "`diptych index EMB --to" in str(error.value)
    assert "\n" not in str(error.value)
    assert ".rs:" not in str(error.value)


def test_without_the_extra_it_is_named(emb, shop, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lance", None)
    for action in (Store.open, change_store, lambda name: write_store(emb, name)):
        with pytest.raises(InputError, match=r"pip install 'diptych\[lance\]'"):
            action(shop)


def test_the_command_writes_and_changes(emb, more, tmp_path, capsys):
    name = f"lancedb:{tmp_path / 'shop'}"
    assert main(["index", str(emb), "--to", name, "--lists", "8", "--recall", "0.9"]) == 0
    out = capsys.readouterr().out
    assert f"{name}, version 3, is indexed: recall of the 50 nearest" in out
    assert main(["index", name, "--add", str(more), "--remove", "k1", "--remove", "k2"]) == 0
    assert keys(Store.open(name)) == (KEYS | NEW) - {"k1", "k2"}
    assert main(["index", str(more), "--to", f"{name}2"]) == 0
    assert "100 rows, few enough to compare all" in capsys.readouterr().out
    with pytest.raises(InputError, match="leave compress out"):
        diptych.index(name, compress=True)
    assert diptych.index(name, recall=0.8).recall == 0.8
