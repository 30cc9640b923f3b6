"""A Lance dataset against the folder that it was written from: the same rows, scores and filters."""

import shutil

import lance
import numpy as np
import pyarrow
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.embeddings.filters import CONDITIONS, KINDS, ROWS
from tests.embeddings.helpers import DIMENSION, folder_of, near, unit

from diptych.embeddings.addresses import open_searchable
from diptych.embeddings.build import build_index
from diptych.embeddings.index import Index
from diptych.embeddings.lance.build import change_store, write_store
from diptych.embeddings.lance.filters import pushed
from diptych.embeddings.lance.store import Store
from diptych.embeddings.where import parse
from diptych.errors import InputError

COUNT = 3000


@pytest.fixture(scope="module")
def emb(tmp_path_factory):
    """A folder with an index that holds a second folder and lacks two rows."""
    root = tmp_path_factory.mktemp("emb")
    kept = {"price": ("float", [None if row % 7 == 0 else row / 8 for row in range(COUNT)])}
    folder = folder_of(root / "emb", near(COUNT, 1), unit(near(COUNT, 2) + 0.3), kept=kept)
    folder_of(root / "more", near(500, 3), unit(near(500, 4) + 0.3), name="m", kept=kept)
    build_index(folder, add=[root / "more"], remove=["k5", "m0"])
    return folder


@pytest.fixture(scope="module")
def stored(emb, tmp_path_factory):
    return write_store(emb, f"lancedb:{tmp_path_factory.mktemp('stored') / 'shop'}", lists=40)


def answers(index, queries, k=10, among=None):
    scores, rows = index.top(queries, k, among)
    return scores, [index.hits(*both).records() for both in zip(scores, rows, strict=True)]


def same(found, wanted):
    torch.testing.assert_close(found[0], wanted[0], atol=1e-6, rtol=0)
    for ours, theirs in zip(found[1], wanted[1], strict=True):
        assert [hit | {"score": 0} for hit in ours] == [hit | {"score": 0} for hit in theirs]


def test_exact_answers_are_those_of_the_folder(emb, stored):
    queries = torch.from_numpy(near(30, 9))
    exact = Index.open(emb, exact=True)
    ours = Store.open(stored.name, exact=True)
    assert len(ours) == len(exact) == COUNT + 500 - 2
    same(answers(ours, queries), answers(exact, queries))
    same(answers(stored, queries, 11), answers(exact, queries, 11))  # beyond the index's k
    for where in ("price < 100", "price > 3 and key like 'm%'", "price is null", "price < -1"):
        wanted = answers(exact, queries, 5, exact.passing(where))
        same(answers(stored, queries, 5, stored.passing(where)), wanted)


def test_the_index_reaches_its_recall_with_exact_scores(emb, stored):
    state = stored.state
    assert state is not None
    assert (state.lists, set(state.measured)) == (40, {"images", "texts"})
    assert state.nprobe < state.lists / 2
    assert min(state.measured.values()) >= state.recall == 0.99
    exact = Index.open(emb, exact=True)
    images = np.concatenate([near(400, seed) for seed in range(11, 16)])
    for vectors in (images, unit(images + 0.3)):
        queries = torch.from_numpy(vectors)
        scores, rows = stored.top(queries, 10)
        true, _ = exact.top(queries, 10)
        assert scores.shape == true.shape
        assert rows.dtype == torch.long
        assert float((scores >= true[:, -1:] - 1e-6).float().mean()) >= 0.99
        cosines = np.einsum(
            "qe,qke->qk", vectors, stored.rows(rows.numpy().ravel()).reshape(len(vectors), 10, -1)
        )
        torch.testing.assert_close(scores, torch.from_numpy(cosines), atol=1e-6, rtol=0)
        assert bool((scores.diff(dim=1) <= 0).all())
    assert all(
        torch.equal(a, b)
        for a, b in zip(stored.top(queries, 3), (scores[:, :3], rows[:, :3]), strict=True)
    )


def test_equal_vectors_are_found_in_the_order_of_their_rows(tmp_path):
    vectors = np.repeat(np.eye(4, DIMENSION, dtype=np.float32), 30, axis=0)
    stored = write_store(
        folder_of(tmp_path / "emb", vectors), f"lancedb:{tmp_path / 's'}", lists=4, k=10
    )
    assert stored.most == 10
    queries = torch.eye(4, DIMENSION)
    exact = Store.open(stored.name, exact=True).top(queries, 10)[1]
    assert exact.tolist() == [list(range(30 * q, 30 * q + 10)) for q in range(4)]
    rows = stored.top(queries, 10)[1]  # any ten of thirty that are equal
    assert torch.equal(rows // 30, torch.arange(4)[:, None].expand(4, 10))
    assert bool((rows.diff(dim=1) > 0).all())


def test_a_query_whose_lists_hold_too_few_rows_is_answered_exactly(tmp_path):
    lonely = np.eye(DIMENSION, dtype=np.float32)[:1]
    few = unit(np.concatenate([lonely, -lonely + 0.3 * near(500, 1)]))
    folder = folder_of(tmp_path / "emb", few)
    stored = write_store(folder, f"lancedb:{tmp_path / 's'}", recall=0.5, lists=100, k=10)
    queries = torch.from_numpy(lonely)
    assert stored.state is not None
    assert (stored.candidates(queries, 10, stored.state.nprobe)[1] < 0).any()
    assert torch.equal(stored.top(queries, 10)[1], Index.open(folder).top(queries, 10)[1])


def test_rows_are_numbered_and_the_removed_ones_are_not_there(stored):
    change = stored.name.replace("/shop", "/changed")
    shutil.copytree(stored.name.removeprefix("lancedb:"), change.removeprefix("lancedb:"))
    changed = change_store(change, remove=["k0", "k7", "m499"])
    last = COUNT + 500 - 3
    assert changed.removed.tolist() == [0, 6, last]  # k5 was never written
    assert len(changed) == last - 2
    assert [changed.alive(row) for row in (-1, 0, 1, 6, 7, last - 1, last, last + 1)] == [
        *(False, False, True, False),
        *(True, True, False, False),
    ]
    assert np.flatnonzero(~changed.kept).tolist() == [0, 6, last]
    rows = torch.tensor([last - 1, 7, 1, 7])
    hits = changed.hits(torch.zeros(4), rows)
    assert [hit.key for hit in hits] == ["m498", "k8", "k1", "k8"]
    np.testing.assert_array_equal(changed.rows(rows.numpy()), stored.rows(rows.numpy()))
    assert changed.source_of(7) == "s"
    queries = torch.from_numpy(changed.rows(np.array([1])))
    for index in (changed, Store.open(change, exact=True)):
        assert not {0, 6, last} & set(index.top(queries, len(changed))[1][0].tolist())
        assert index.top(queries, len(changed) + 5)[1].shape == (1, len(changed))


def test_what_other_programs_do_to_the_table_is_seen(emb, tmp_path):
    """LanceDB appends, deletes and compacts: the rows are where they are then, and what is not in the
    index yet is found all the same."""
    name = f"lancedb:{tmp_path / 's'}"
    before = write_store(emb, name, lists=40)
    dataset = lance.dataset(str(tmp_path / "s"))
    lonely = -np.ones((1, DIMENSION), np.float32) / DIMENSION**0.5
    row = dataset.to_table(limit=1).to_pylist()[0] | {"vector": lonely[0].tolist(), "key": "theirs"}
    lance.write_dataset(
        pyarrow.Table.from_pylist([row], schema=dataset.schema), dataset.uri, mode="append"
    )
    lance.dataset(dataset.uri).delete("key IN ('k1', 'k2')")
    lance.dataset(dataset.uri).optimize.compact_files()
    after = Store.open(name)
    assert len(after) == len(before) - 1
    for index in (after, Store.open(name, exact=True)):
        scores, rows = index.top(torch.from_numpy(lonely), 3)
        assert index.hits(scores[0], rows[0])[0].key == "theirs"
    keys = {key for _, batch in after.batches(["key"]) for key in batch["key"].to_pylist()}
    assert "theirs" in keys
    assert not keys & {"k1", "k2"}
    numbers = np.concatenate([rows for rows, _ in after.batches([])])
    assert bool((np.diff(numbers) > 0).all())
    assert (
        after.hits(torch.zeros(1), torch.tensor(numbers[7:8]))[0].key == "k10"
    )  # k1, k2 and k5 are not there


# --- filters


BRANDS = ["acme", None, "it's", "Used %", "", "a\nb", "Ünïcode", "back\\slash", "K", "ACME"]


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    """The rows of `filters.ROWS` as a folder and as a store, and some of texts that look like
    numbers."""
    root = tmp_path_factory.mktemp("filtered")
    kept = {name: (KINDS[name], values) for name, values in ROWS.items()}
    kept["size"] = ("text", ["36", " 40.5 ", "", None, "-1", "7", "1e3", "nan"])
    kept["Brand"] = ("text", [f"{brand} of old" for brand in ROWS["brand"]])
    folder = folder_of(root / "emb", near(8, 1), kept=kept)
    return Index.open(folder), write_store(folder, f"lancedb:{root / 's'}")


@settings(max_examples=100, deadline=None)
@given(CONDITIONS)
def test_a_filter_is_pushed_down_and_passes_the_rows_that_it_passes_in_the_folder(filtered, text):
    index, stored = filtered
    assert pushed(parse(text).test, stored.kinds) is not None
    assert stored.passing(text).tolist() == index.passing(text).tolist()


@pytest.mark.parametrize(
    ("text", "is_pushed"),
    [
        ("size > 30", False),  # a text read as a number
        ("size in (36, 7) or price < 2", False),
        ("brand ilike 'ac%'", False),
        (r"brand like 'a\%'", False),
        ("price < 1e999", False),
        ("stock > -9223372036854775808", False),
        ("stock = 9007199254740993", True),  # which no float64 holds
        ("stock > 1e300 or stock < 99999999999999999999", True),
        ("price = 0 and price = -0.0", True),
        ("Brand like '%old' and brand = 'acme'", True),
        ("brand in ('acme', 'it''s') and not (price is null)", True),
        ("brand = '' or key = 'k3'", True),
        ("5 is not null and 'a' < 'b' and 'abc' like 'a_c'", True),
        (" or ".join(f"`list price` = {number}" for number in range(150)), True),
        (" or ".join(f"`list price` = {number}" for number in range(400)), False),
        (f"stock in ({', '.join(map(str, range(1000)))})", True),
        ("not " * 30 + "price < 3", False),
        ("not (" * 14 + "price < 3" + ")" * 14, True),
    ],
)
def test_filters_that_sql_reads_otherwise_are_evaluated_here(filtered, text, is_pushed):
    index, stored = filtered
    assert (pushed(parse(text).test, stored.kinds) is not None) == is_pushed
    assert stored.passing(text).tolist() == index.passing(text).tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.text(alphabet="a'\"`\\%_;-\nü\u2028 A", max_size=6),
    st.sampled_from(["=", "<", ">=", "like", "in"]),
)
def test_any_text_in_quotes_means_the_same(texts, asked, sign):
    index, stored = texts
    literal = "'" + asked.replace("'", "''") + "'"
    text = f"brand {sign} ({literal}, 'acme')" if sign == "in" else f"brand {sign} {literal}"
    assert stored.passing(text).tolist() == index.passing(text).tolist()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    brands = [*BRANDS, "a'", "%", "_", "'", "a\\", "-- a", "`a`", "\u2028", "ü", "aü"]
    folder = folder_of(root / "emb", near(len(brands), 1), kept={"brand": ("text", brands)})
    return Index.open(folder), write_store(folder, f"lancedb:{root / 's'}")


@pytest.mark.parametrize(
    "text",
    [
        "prise < 3",
        "price < '9'",
        "stock like '5%'",
        "size > 3 and brand > 5",
        "price <",
        "brand = acme",
    ],
)
def test_filters_that_do_not_fit_are_refused_as_in_the_folder(filtered, text):
    index, stored = filtered
    with pytest.raises(InputError) as theirs:
        index.passing(text)
    with pytest.raises(InputError) as ours:
        stored.passing(text)
    assert str(ours.value) == str(theirs.value).replace(index.name, stored.name)


def test_an_address_opens_a_store_and_a_path_a_folder(filtered):
    index, stored = filtered
    assert isinstance(open_searchable(stored.name), Store)
    assert isinstance(open_searchable(index.folder, exact=True), Index)
    assert Store.open(f"{stored.name}:version={stored.version}").version == stored.version
