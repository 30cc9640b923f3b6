"""Embedding a source and searching it, with a stub model whose embeddings are known."""

import errno
import json
import os
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.embeddings.helpers import toy_model

import diptych
from diptych.data.images import FileImage, Preprocess
from diptych.data.sample import BadSample, Field, Sample, Text
from diptych.data.sources import open_source
from diptych.embeddings import index, writer
from diptych.embeddings.build import build_index
from diptych.embeddings.embed import embed_source
from diptych.embeddings.index import Index
from diptych.embeddings.layout import Manifest, parts_of
from diptych.embeddings.nearest import best
from diptych.embeddings.query import query
from diptych.errors import InputError
from diptych.models.multivector import MultiVectorModel

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
}


class ColourModel:
    """Images and colour names to the unit vector of their colour."""

    preprocess = Preprocess(size=4)
    tokenizer = "by eye"
    weights = None

    def __init__(self, identity="sha256:colours"):
        self.name, self.identity = "colours", identity

    def _unit(self, colours):
        return torch.nn.functional.normalize(torch.tensor(colours).float() + 1, dim=-1)

    def embed_images(self, images, *, batch_size=64, exact=False):
        if isinstance(images, torch.Tensor):
            assert images.dtype == torch.uint8
            return self._unit(images.float().mean((2, 3)).tolist())
        images = [
            image if isinstance(image, Image.Image) else FileImage(str(image)).decode()
            for image in images
        ]
        return self._unit(
            [image.convert("RGB").resize((1, 1)).getpixel((0, 0)) for image in images]
        )

    def embed_texts(self, texts):
        return self._unit([COLOURS[text] for text in texts])


@dataclass(frozen=True)
class Painted:
    """An image of one colour; None is a damaged one."""

    colour: tuple | None

    def decode(self, at_least=None):
        if self.colour is None:
            raise BadSample("truncated", "ends early")
        return Image.new("RGB", (6, 8), self.colour)


@dataclass(frozen=True)
class Paintings:
    images: tuple
    texts: tuple = ()
    name: str = "paintings"
    fields: tuple = ("images.main", "texts.caption")

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        texts = (Text(text=self.texts[i]),) if self.texts and self.texts[i] is not None else ()
        return Sample(key=f"k{i}", source=self.name, images={"main": self.images[i]}, texts=texts)

    def keys(self):
        return [f"k{i}" for i in range(len(self))]

    def schema(self):
        return {
            name: Field(kind="image" if name.startswith("images") else "text")
            for name in self.fields
        }


def paintings(*names, **options):
    return Paintings(tuple(Painted(COLOURS.get(name)) for name in names), names, **options)


def test_layout_is_clip_retrievals_and_rows_of_all_files_agree(tmp_path):
    source = paintings("red", "green", "blue")
    manifest = embed_source(ColourModel(), source, tmp_path / "emb", batch_size=2)
    assert sorted(
        p.relative_to(tmp_path / "emb").as_posix() for p in (tmp_path / "emb").rglob("*.*")
    ) == [
        "diptych.json",
        "img_emb/img_emb_0.npy",
        "metadata/metadata_0.parquet",
        "text_emb/text_emb_0.npy",
    ]
    images = np.load(tmp_path / "emb/img_emb/img_emb_0.npy")
    assert images.shape == (3, 3)
    assert images.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(images, np.load(tmp_path / "emb/text_emb/text_emb_0.npy"), atol=1e-6)
    table = pyarrow.parquet.read_table(tmp_path / "emb/metadata/metadata_0.parquet").to_pydict()
    assert table == {
        "key": ["k0", "k1", "k2"],
        "position": [0, 1, 2],
        "image_path": ["", "", ""],
        "caption": ["red", "green", "blue"],
    }
    assert manifest == Manifest.read(tmp_path / "emb")
    assert (manifest.count, manifest.dimension, manifest.texts, manifest.damaged) == (3, 3, 3, {})


def test_parts_of_any_size_hold_the_same_rows_in_order(tmp_path, monkeypatch):
    names = ["red", "green", "blue", "white", "yellow"] * 5
    embed_source(ColourModel(), paintings(*names), tmp_path / "whole")
    monkeypatch.setattr(writer, "PART_ROWS", 2)
    embed_source(ColourModel(), paintings(*names), tmp_path / "cut", batch_size=7)
    assert [p.name for p in parts_of(tmp_path / "cut", "img_emb")][:3] == [
        "img_emb_00.npy",
        "img_emb_01.npy",
        "img_emb_02.npy",
    ]
    for kind in ("img_emb", "text_emb"):
        parts = [np.load(path) for path in parts_of(tmp_path / "cut", kind)]
        assert [len(p) for p in parts] == [2] * 12 + [1]
        np.testing.assert_array_equal(
            np.concatenate(parts), np.load(tmp_path / f"whole/{kind}/{kind}_0.npy")
        )
    captions = [
        c
        for p in parts_of(tmp_path / "cut", "metadata")
        for c in pyarrow.parquet.read_table(p)["caption"].to_pylist()
    ]
    assert captions == names
    assert [
        hit.position
        for hit in query(ColourModel(), Index.open(tmp_path / "cut"), text="white", k=5)
    ] == [
        3,
        8,
        13,
        18,
        23,
    ]


def test_sources_without_texts_and_models_without_tokenizer_write_no_text_emb(tmp_path):
    images_only = Paintings(paintings("red", "blue").images, fields=("images.main",))
    assert embed_source(ColourModel(), images_only, tmp_path / "a").texts is None
    silent = ColourModel()
    silent.tokenizer = None
    assert embed_source(silent, paintings("red"), tmp_path / "b").texts is None
    assert not (tmp_path / "a/text_emb").exists()
    assert not (tmp_path / "b/text_emb").exists()
    assert query(ColourModel(), Index.open(tmp_path / "a"), text="blue", k=1)[0].caption is None


class TextsOfColours:
    """Colour names alone to the unit vector of their colour."""

    tokenizer = "by eye"
    name, identity = "names of colours", "sha256:names"

    def embed_texts(self, texts):
        return ColourModel().embed_texts(texts)


def test_a_model_of_texts_alone_embeds_texts_and_finds_them(tmp_path):
    source = paintings("red", "green", "blue")
    manifest = embed_source(TextsOfColours(), source, tmp_path / "emb", batch_size=2)
    assert (manifest.rows, manifest.count, manifest.texts) == ("texts", 3, 3)
    assert not (tmp_path / "emb/img_emb").exists()
    index = Index.open(tmp_path / "emb")
    assert [hit.caption for hit in query(TextsOfColours(), index, text="green", k=1)] == ["green"]
    silent = Paintings(source.images, ("red", None, "blue"))
    found = embed_source(TextsOfColours(), silent, tmp_path / "b", max_bad=0.4)
    assert (found.count, found.damaged) == (2, {"no-caption": ["k1"]})
    images_only = Paintings(source.images, fields=("images.main",))
    with pytest.raises(InputError, match="has no texts to embed with names of colours; its fields"):
        embed_source(TextsOfColours(), images_only, tmp_path / "c")


def test_images_and_texts_are_not_in_one_index(tmp_path):
    names = ["red", "green", "blue", "white", "yellow", "magenta"] * 2
    embed_source(ColourModel(), paintings(*names), tmp_path / "images")
    texts_only = Paintings(paintings(*names).images, tuple(names), fields=("texts.caption",))
    embed_source(ColourModel(), texts_only, tmp_path / "texts")
    with pytest.raises(
        InputError, match="holds texts, .*images; what is searched together is of one kind"
    ):
        build_index(tmp_path / "images", add=[tmp_path / "texts"])


def test_a_sample_without_caption_keeps_its_row(tmp_path):
    source = Paintings(paintings("red", "green").images, (None, "green"))
    assert embed_source(ColourModel(), source, tmp_path / "emb").texts == 1
    texts = np.load(tmp_path / "emb/text_emb/text_emb_0.npy")
    assert (texts[0] == 0).all()
    assert np.linalg.norm(texts[1]) == pytest.approx(1)


def test_damaged_images_are_left_out_and_listed_by_reason(tmp_path):
    source = paintings("red", "damaged", "blue")
    manifest = embed_source(ColourModel(), source, tmp_path / "emb", max_bad=0.4)
    assert manifest.damaged == {"truncated": ["k1"]}
    hits = query(ColourModel(), Index.open(tmp_path / "emb"), text="blue")
    assert [(hit.key, hit.position) for hit in hits] == [("k2", 2), ("k0", 0)]


def test_too_many_damaged_images_stop_the_run_and_leave_nothing(tmp_path):
    with pytest.raises(
        InputError,
        match=r"1 of its 3 samples are damaged so far \(1 truncated; last: k1\).*--max-bad",
    ):
        embed_source(ColourModel(), paintings("red", "damaged", "blue"), tmp_path / "emb")
    with pytest.raises(InputError, match="none of the 2 images"):
        embed_source(ColourModel(), paintings("damaged", "damaged"), tmp_path / "emb", max_bad=1)
    assert list(tmp_path.iterdir()) == []


def test_file_images_have_an_absolute_path_and_search_by_path_finds_them(tmp_path, monkeypatch):
    for name in ("red", "blue"):
        Image.new("RGB", (5, 5), COLOURS[name]).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    embed_source(ColourModel(), Paintings((FileImage("red.png"), FileImage("blue.png"))), "emb")
    hits = query(ColourModel(), Index.open("emb"), image="red.png", k=1)
    assert (hits[0].image_path, hits[0].rank, round(hits[0].score, 5)) == (
        str(tmp_path / "red.png"),
        1,
        1.0,
    )


@pytest.mark.parametrize("exact", [False, True])
def test_a_query_by_path_is_decoded_as_the_index_was(tmp_path, exact):
    class Pixels(ColourModel):
        """The pixels themselves: nothing hides a difference of decoding."""

        def embed_images(self, images, *, batch_size=64, exact=False):
            if not isinstance(images, torch.Tensor):
                images = torch.stack(
                    [self.preprocess.read(FileImage(str(image)), exact=exact) for image in images]
                )
            return torch.nn.functional.normalize(images.float().flatten(1) - 128, dim=-1)

    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (100, 120, 3), dtype=np.uint8))
    noise.save(tmp_path / "a.jpg")
    image = FileImage(str(tmp_path / "a.jpg"))
    manifest = embed_source(Pixels(), Paintings((image,)), tmp_path / "emb", exact=exact)
    assert manifest.exact is exact
    index = Index.open(tmp_path / "emb")
    assert query(Pixels(), index, image=tmp_path / "a.jpg")[0].score == pytest.approx(1, abs=1e-6)
    other = Pixels().embed_images([tmp_path / "a.jpg"], exact=not exact)
    assert index.top(other, 1)[0].item() < 0.999


def test_an_existing_folder_is_never_overwritten_but_an_empty_one_is_filled(tmp_path):
    (tmp_path / "emb").mkdir()
    embed_source(ColourModel(), paintings("red"), tmp_path / "emb")
    with pytest.raises(InputError, match="exists; name another --out"):
        embed_source(ColourModel(), paintings("blue"), tmp_path / "emb")
    assert query(ColourModel(), Index.open(tmp_path / "emb"), text="red")[0].caption == "red"
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        embed_source(ColourModel(), paintings("red"), tmp_path / "file" / "emb")


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "write_metadata", full)
    with pytest.raises(InputError, match="no space left"):
        embed_source(ColourModel(), paintings("red"), tmp_path / "emb")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_source(ColourModel(), paintings("red"), tmp_path / "emb", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_sample(tmp_path):
    seen = []
    embed_source(
        ColourModel(),
        paintings("red", "damaged", "blue"),
        tmp_path / "emb",
        batch_size=2,
        max_bad=1,
        progress=lambda *at: seen.append(at),
    )
    assert seen == [(0, 3), (2, 3), (3, 3)]


def test_a_diverged_model_is_refused(tmp_path):
    model = ColourModel()
    model.embed_images = lambda pixels, batch_size: torch.full((len(pixels), 3), float("nan"))
    with pytest.raises(InputError, match="not finite"):
        embed_source(model, paintings("red"), tmp_path / "emb")


@dataclass(frozen=True)
class Vectors:
    """An index of given vectors, in parts, without files."""

    parts: list
    manifest: Manifest = field(init=False)

    def open(self):
        dimension = self.parts[0].shape[1]
        count = sum(map(len, self.parts))
        manifest = Manifest(
            model="m",
            identity="i",
            dimension=dimension,
            count=count,
            texts=None,
            source="s",
            damaged={},
        )
        return Index("given", manifest, self.parts, [])


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    k=st.integers(1, 50),
    tile=st.integers(1, 17),
    cut=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_top_equals_a_stable_sort_whatever_tiles_and_parts(n, k, tile, cut, seed):
    # Small whole numbers: products are exact, so ties are true ties.
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, (n, 3)).astype(np.float32)
    queries = torch.from_numpy(rng.integers(-1, 2, (4, 3)).astype(np.float32))
    parts = [part for part in (vectors[:cut], vectors[cut:]) if len(part)]
    before, index.TILE = index.TILE, tile
    try:
        scores, rows = Vectors(parts).open().top(queries, k)
    finally:
        index.TILE = before
    truth = queries @ torch.from_numpy(vectors).T
    order = truth.argsort(dim=1, descending=True, stable=True)[:, :k]
    assert torch.equal(rows, order)
    assert torch.equal(scores, truth.gather(1, order))


def test_best_keeps_the_first_of_many_equals():
    scores = torch.zeros(2, 1000)
    scores[1, 998] = 1
    assert best(scores, 3).tolist() == [[0, 1, 2], [998, 0, 1]]


def test_a_image_and_words_are_asked_together(tmp_path):
    """Colours as vectors: red plus blue is nearest to magenta, magenta minus blue plus green to
    yellow."""
    for name in ("red", "magenta"):
        Image.new("RGB", (5, 5), COLOURS[name]).save(tmp_path / f"{name}.png")
    embed_source(
        ColourModel(), paintings("red", "green", "blue", "magenta", "yellow"), tmp_path / "emb"
    )
    opened = Index.open(tmp_path / "emb")

    def found(**asked):
        return query(ColourModel(), opened, k=1, **asked)[0].caption

    assert found(image=tmp_path / "red.png", text="blue") == "magenta"
    assert found(image=tmp_path / "magenta.png", text="green", minus="blue") == "yellow"
    assert found(text="magenta", minus="red") == "blue"
    hits = query(ColourModel(), opened, k=5, image=tmp_path / "red.png", text="blue")
    asked = torch.nn.functional.normalize(
        ColourModel().embed_texts(["red"]) + ColourModel().embed_texts(["blue"])
    )
    cosines = asked @ ColourModel().embed_texts([hit.caption for hit in hits]).T
    assert [hit.score for hit in hits] == pytest.approx(
        cosines[0].tolist(), abs=1e-3
    )  # stored in half precision
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    with pytest.raises(InputError, match="nothing is asked for"):
        found(image=tmp_path / "red.png", minus="red")
    with pytest.raises(InputError, match="empty"):
        found(image=tmp_path / "red.png", minus=" ")


def test_another_dimension_another_model_and_bad_questions_are_refused(tmp_path):
    embed_source(ColourModel(), paintings("red"), tmp_path / "emb")
    opened = Index.open(tmp_path / "emb")
    with pytest.raises(InputError, match="vectors have 3 numbers"):
        opened.top(torch.zeros(1, 4))
    with pytest.raises(InputError, match=r"embedded with colours .*not colours"):
        query(ColourModel("sha256:other"), opened, text="red")
    with pytest.raises(InputError, match="at least 1"):
        query(ColourModel(), opened, text="red", k=0)
    with pytest.raises(InputError, match="empty"):
        query(ColourModel(), opened, text=" ")
    with pytest.raises(InputError, match="give one of them"):
        query(ColourModel(), opened)


def test_damaged_folders_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match="is not a folder; make one with `diptych embed"):
        Index.open(tmp_path / "nothing")
    folder = tmp_path / "emb"
    embed_source(ColourModel(), paintings("red", "blue"), folder)
    rows = (folder / "metadata/metadata_0.parquet").read_bytes()
    (folder / "metadata/metadata_0.parquet").write_bytes(rows[:-40])
    with pytest.raises(InputError, match=r"metadata_0\.parquet is damaged"):
        query(ColourModel(), Index.open(folder), text="red")
    (folder / "metadata/metadata_0.parquet").write_bytes(rows)
    vectors = (folder / "img_emb/img_emb_0.npy").read_bytes()
    (folder / "img_emb/img_emb_0.npy").write_bytes(vectors[:-4])
    with pytest.raises(InputError, match=r"img_emb_0\.npy is damaged"):
        Index.open(folder)
    np.save(folder / "img_emb/img_emb_0.npy", np.zeros((1, 3), np.float32))
    with pytest.raises(InputError, match="holds 1 vectors"):
        Index.open(folder)
    manifest = json.loads((folder / "diptych.json").read_text())
    (folder / "diptych.json").write_text(json.dumps({**manifest, "format": "diptych-embeddings/9"}))
    with pytest.raises(InputError, match="this version reads"):
        Index.open(folder)
    (folder / "diptych.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        Index.open(folder)


def test_a_real_model_embeds_glyphs_and_finds_each_image_by_itself(tmp_path):
    model = toy_model()
    source = open_source("glyphs:split=val:design=noto")
    spec = "glyphs:split=val:design=noto"
    manifest = embed_source(model, spec, tmp_path / "emb")
    assert (manifest.source, manifest.identity, manifest.count) == (
        spec,
        model.identity,
        len(source),
    )
    vectors = np.load(tmp_path / "emb/img_emb/img_emb_0.npy")
    images = [source[i].images["main"].decode() for i in range(5)]
    np.testing.assert_allclose(vectors[:5], model.embed_images(images), atol=1e-5)
    words = np.load(tmp_path / "emb/text_emb/text_emb_0.npy")
    np.testing.assert_allclose(
        words[:5], model.embed_texts([source[i].captions()[0] for i in range(5)]), atol=1e-5
    )
    opened = Index.open(tmp_path / "emb")
    for i, image in enumerate(images):
        assert query(model, opened, image=image, k=1)[0].position == i
    assert len(query(model, opened, text="grinning face", k=1000)) == len(source)


def test_file_names_that_are_no_utf8_and_half_an_emoji_are_embedded(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    image, record = os.fsdecode(b"caf\xe9.png"), os.fsdecode(b"caf\xe9.json")
    Image.new("RGB", (6, 8), "red").save(folder / "red.png")
    (folder / "red.png").rename(folder / image)
    (folder / record).write_text('{"caption": "red \\ud83d"}')

    class Reader(ColourModel):
        def embed_texts(self, texts):
            return super().embed_texts([text.removesuffix(" \ufffd") for text in texts])

    embed_source(Reader(), open_source(str(folder)), tmp_path / "emb")
    [hit] = query(Reader(), Index.open(tmp_path / "emb"), text="red", k=1)
    assert (hit.key, hit.image_path, hit.caption) == (
        r"caf\xe9.png",
        f"{folder}/caf\\xe9.png",
        "red \ufffd",
    )


class Priced(Paintings):
    """Paintings with a price, and with a brand but for every fifth."""

    def __getitem__(self, i):
        brand = () if i % 5 == 4 else (Text(text=("acme", "it's")[i % 2], role="brand"),)
        sample = super().__getitem__(i)
        return replace(sample, texts=(*sample.texts, *brand), labels={"price": float(i), "lot": i})

    def schema(self):
        return {
            **super().schema(),
            "labels.price": Field(kind="float"),
            "labels.lot": Field(kind="int"),
            "texts.brand": Field(kind="text", optional=True),
        }


def priced(count, **options):
    names = [list(COLOURS)[i % 6] for i in range(count)]
    return Priced(tuple(Painted(COLOURS[name]) for name in names), tuple(names), **options)


COLUMNS = ("price", "lot", "brand")


def test_columns_are_kept_with_the_rows_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "PART_ROWS", 4)
    manifest = embed_source(ColourModel(), priced(10), tmp_path / "emb", columns=COLUMNS)
    assert manifest.columns == {"price": "float", "lot": "int", "brand": "text"}
    assert Manifest.read(tmp_path / "emb") == manifest
    opened = Index.open(tmp_path / "emb")
    hits = query(ColourModel(), opened, text="yellow", k=2)
    assert hits[0].columns == {"price": 4.0, "lot": 4, "brand": None}
    assert list(hits.records()[0]) == [
        *("rank", "score", "key", "position", "image_path", "caption"),
        *COLUMNS,
    ]
    assert "<th>brand</th>" in hits._repr_html_()


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    k=st.integers(1, 50),
    tile=st.integers(1, 17),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_top_among_some_rows_equals_a_sort_of_these(n, k, tile, share, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, (n, 3)).astype(np.float32)
    queries = torch.from_numpy(rng.integers(-1, 2, (4, 3)).astype(np.float32))
    among = rng.random(n) < share
    before, index.TILE = index.TILE, tile
    try:
        scores, rows = Vectors([vectors]).open().top(queries, k, among)
    finally:
        index.TILE = before
    kept = torch.from_numpy(np.flatnonzero(among))
    truth = queries @ torch.from_numpy(vectors[among]).T
    order = truth.argsort(dim=1, descending=True, stable=True)[:, :k]
    assert torch.equal(rows, kept[order])
    assert torch.equal(scores, truth.gather(1, order))


def nearest(hits):
    """Cosines, rounded so that equal colours are ties, and positions."""
    return sorted((-round(hit.score, 5), hit.position) for hit in hits)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_filter_finds_the_nearest_of_the_rows_that_pass(tmp_path, monkeypatch, indexed):
    """Not those of the nearest that pass: all of k rows are found if as many pass."""
    monkeypatch.setattr(writer, "PART_ROWS", 7)
    folder = tmp_path / "emb"
    embed_source(ColourModel(), priced(120), folder, columns=COLUMNS)
    if indexed:
        build_index(folder, lists=4, k=5, remove=["k110"])
    opened = Index.open(folder)
    assert (opened.ivf is not None) == indexed
    every = query(ColourModel(), opened, text="red", k=120)
    for where, passes in {
        "price >= 100 and brand = 'acme'": lambda i: i >= 100 and i % 2 == 0 and i % 5 != 4,
        "lot in (3, 110, 7) or brand is null": lambda i: i in (3, 7, 110) or i % 5 == 4,
        "caption = 'blue' and position < 30": lambda i: i % 6 == 2 and i < 30,
    }.items():
        expected = [pair for pair in nearest(every) if passes(pair[1])]
        for k in (1, 5, 120):
            found = query(ColourModel(), opened, text="red", k=k, where=where)
            assert nearest(found) == expected[:k]
            assert found.title == f"“red” where {where}"
    assert query(ColourModel(), opened, text="red", k=5, where="price > 1000") == []


def test_rows_of_a_folder_that_lacks_a_column_have_null_there(tmp_path):
    embed_source(ColourModel(), priced(40), tmp_path / "emb", columns=COLUMNS)
    embed_source(ColourModel(), priced(4, name="more"), tmp_path / "more", columns=["price"])
    build_index(tmp_path / "emb", add=[tmp_path / "more"], lists=1, k=10)
    opened = Index.open(tmp_path / "emb")
    cheap = query(ColourModel(), opened, text="red", k=50, where="price < 2")
    assert sorted((hit.position, hit.columns["lot"] is None) for hit in cheap) == [
        (0, False),
        (0, True),
        (1, False),
        (1, True),
    ]
    assert all(list(hit.columns) == list(COLUMNS) for hit in cheap)
    found = query(ColourModel(), opened, text="red", k=50, where="lot < 2")
    assert sorted(hit.columns["lot"] for hit in found) == [0, 1]
    added = query(ColourModel(), opened, text="red", k=50, where="lot is null")
    assert sorted(hit.position for hit in added) == [0, 1, 2, 3]
    with pytest.raises(InputError, match=r"column of .*emb 'colour'; .*embed --columns"):
        query(ColourModel(), opened, text="red", where="colour < 2")


def test_filters_that_do_not_fit_are_refused_with_the_folder(tmp_path):
    folder = tmp_path / "emb"
    embed_source(ColourModel(), priced(4), folder, columns=["price"])
    opened = Index.open(folder)
    with pytest.raises(InputError, match="filter 'price <': a value is missing at the end"):
        query(ColourModel(), opened, text="red", where="price <")
    with pytest.raises(InputError, match=r"column of .*emb 'brand'; there are: caption, .*price"):
        query(ColourModel(), opened, text="red", where="brand = 'acme'")
    with pytest.raises(InputError, match=r"emb: column 'price' holds numbers, and 'x' is a text"):
        query(ColourModel(), opened, text="red", where="price = 'x'")
    path = folder / "metadata/metadata_0.parquet"
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.slice(1), path)
    with pytest.raises(InputError, match="has 3 rows for 4 vectors"):
        query(ColourModel(), Index.open(folder), text="red", where="price < 3")
    pyarrow.parquet.write_table(table.drop_columns(["price"]), path)
    with pytest.raises(InputError, match=r"metadata_0\.parquet is damaged"):
        query(ColourModel(), Index.open(folder), text="red", where="price < 3")


def test_an_unknown_column_is_refused_before_anything_is_embedded(tmp_path):
    model = ColourModel()
    model.embed_images = None
    with pytest.raises(
        InputError, match="unknown column of paintings 'prise'; did you mean 'price'"
    ):
        embed_source(model, priced(4), tmp_path / "emb", columns=["prise"])
    assert not any(tmp_path.iterdir())


class Halves(torch.nn.Module):
    """The unit vectors of the colours of an image's two halves."""

    preprocess = Preprocess(size=4)
    vectors = 2
    embed_dim = 3

    def __init__(self):
        super().__init__()
        self.seen = torch.nn.Parameter(torch.zeros(1))

    def embed_images(self, x):
        halves = x.float().unflatten(3, (2, 2)).mean((2, 4)).mT
        return torch.nn.functional.normalize(halves + 1, dim=-1)


class HalvesModel(MultiVectorModel):
    """Its match asks for the colour in both halves."""

    def embed_texts(self, texts, **how):
        return ColourModel().embed_texts(texts)

    def match(self, images, texts, *, exact=False):
        return (self.index(images, exact=exact) @ self.embed_texts(texts)[:, :, None]).mean((1, 2))


def test_the_best_of_several_vectors_of_an_image_counts_and_match_reorders(tmp_path):
    shown = ["red blue", "red red", "white blue", "green green", "blue red"]
    (tmp_path / "photos").mkdir()
    for number, halves in enumerate(shown):
        image = Image.new("RGB", (4, 4))
        for left, colour in zip((0, 2), halves.split(), strict=True):
            image.paste(COLOURS[colour], (left, 0, left + 2, 4))
        image.save(tmp_path / "photos" / f"{number}.png")
    model = HalvesModel(Halves(), None, name="halves")
    folder = tmp_path / "emb"
    manifest = embed_source(model, str(tmp_path / "photos"), folder, batch_size=2)
    assert (manifest.vectors, manifest.dimension, manifest.count) == (2, 6, 5)
    opened = Index.open(folder, several=True)
    found = query(model, opened, text="red", k=4)
    assert [hit.position for hit in found] == [0, 1, 4, 2]
    assert [hit.score for hit in found[:3]] == pytest.approx([1, 1, 1])
    assert [hit.position for hit in query(model, opened, text="blue", k=3)] == [0, 2, 4]
    ordered = diptych.search(folder, "red", k=3, rerank=4, model=model)
    assert [hit.position for hit in ordered] == [1, 0, 4]
    with pytest.raises(InputError, match=r"keeps 2 vectors .* `diptych search` alone"):
        Index.open(folder)
    with pytest.raises(InputError, match="compared with words; give a text"):
        query(model, opened, image=shown[0])
    with pytest.raises(InputError, match=r"whose vectors have 3 numbers"):
        opened.top(torch.zeros(1, 6))
    vectors = np.load(folder / "img_emb" / "img_emb_0.npy")
    vectors[3, 4] = 9
    np.save(folder / "img_emb" / "img_emb_0.npy", vectors)
    with pytest.raises(InputError, match="row 3 of"):
        Index.open(folder, several=True)
