"""`diptych embed` in parts and with columns, `diptych search --where`."""

import json
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.cli.helpers import COLOURS, encoded, image

from diptych import embed
from diptych.embeddings.parts import merge
from diptych.errors import InputError


@pytest.fixture(scope="module")
def products(tmp_path_factory) -> Path:
    """Products with prices, brands and article numbers, as a CSV."""
    folder = tmp_path_factory.mktemp("shop")
    rows = ["file,caption,price,brand,sku"]
    for number in range(16):
        (folder / f"{number}.png").write_bytes(encoded(image(number)))
        brand = ("acme", "apex")[number % 2]
        rows.append(f"{number}.png,a {COLOURS[number % 8]} mug,{number}.50,{brand},{number:04d}")
    (folder / "products.csv").write_text("\n".join(rows) + "\n")
    return folder / "products.csv"


@pytest.fixture(scope="module")
def emb(products) -> Path:
    """Its embeddings, in the batches that the tests use."""
    from diptych.cli import main

    out = products.with_name("emb")
    words = ["--batch-size", "4", "--columns", "price, brand", "--out", str(out)]
    assert main(["embed", "tiny", str(products), *words]) == 0
    return out


def test_rows_are_filtered_by_their_columns(diptych, emb):
    where = "price < 9 and brand = 'acme'"
    found = json.loads(diptych("search", emb, "red", "-k", "4", "--where", where, "--json").out)
    assert len(found) == 4
    assert {row["brand"] for row in found} == {"acme"}
    assert all(row["price"] < 9 for row in found)
    assert list(found[0]) == [
        *("rank", "score", "key", "position", "image_path", "caption"),
        *("price", "brand"),
    ]
    shown = diptych("search", emb, "red", "-k", "20", "--where", where).out
    assert shown.startswith(f"“red” where {where} in 16 images")
    assert shown.count("acme") == 1 + 5
    none = diptych("search", emb, "red", "--where", "price > 99")
    assert (none.code, "no row passes the filter" in none.out) == (0, True)
    assert diptych("search", emb, "red", "--where", "price > 99", "--json").out == "[]\n"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("price <", "filter 'price <': a value is missing at the end; write a condition such as"),
        ("prise < 3", "'prise'; did you mean 'price'"),
        ("brand = acme", "'acme'; there are: brand, caption"),
        ("price = 'x'", "column 'price' holds numbers, and 'x' is a text"),
        ("brand > 3", "column 'brand' holds text, such as 'acme'"),
    ],
)
def test_a_filter_that_does_not_fit_is_refused_before_the_model_is_loaded(
    refused, emb, monkeypatch, where, message
):
    monkeypatch.setattr("diptych.cli.search.load_model", None)
    assert message in refused("search", emb, "red", "--where", where)


def test_image_files_are_no_sources(refused, emb, products):
    files = [str(products.with_name(f"{number}.png")) for number in range(3)]
    assert "name its folder" in refused("embed", "tiny", files[0], "--out", "x")
    assert "name their folder" in refused("embed", "tiny", *files, "--out", "x")
    message = refused("search", emb, "--image", files[0], "--frames", 4)
    assert "is one image and has no frames; leave out --frames" in message


def test_an_interrupt_says_how_to_go_on_once_something_is_kept(
    diptych, products, monkeypatch, tmp_path
):
    def interrupted(*given, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("diptych.embeddings.embed.embed_source", interrupted)
    words = ("embed", "tiny", products, "--out", tmp_path / "emb")
    nothing = diptych(*words)
    assert (nothing.code, nothing.err) == (130, "diptych: stopped\n")
    (tmp_path / ".emb.unfinished").mkdir()
    called = diptych(*words)
    said = "stopped; what is embedded is kept, and the same command goes on\n"
    assert (called.code, called.err) == (130, said)


@pytest.mark.parametrize("share", [-1.0, 5.0])
def test_damaged_samples_are_bounded_by_a_share(refused, products, tmp_path, share):
    words = ("--out", tmp_path / "emb", "--max-bad", share)
    bounds = f"is {share}; it must be a number from 0 to 1"
    assert refused("embed", "tiny", products, *words) == f"--max-bad {bounds}"
    with pytest.raises(InputError, match=f"max_bad {bounds}"):
        embed("tiny", str(products), tmp_path / "emb", max_bad=share)
    with pytest.raises(InputError, match=f"max_bad {bounds}"):
        merge(tmp_path / "emb", max_bad=share)


def test_parts_are_made_one_by_one_and_joined(diptych, refused, products, emb, tmp_path):
    out = tmp_path / "emb"
    words = ("embed", "tiny", products, "--batch-size", "4", "--columns", "price,brand")
    first = diptych(*words, "--out", out, "--part", "2/2")
    assert (first.code, first.err) == (0, "part 2/2 is done: 8 images\n")
    assert first.out.startswith(
        "parts that are missing: 1 of 2; then join them with: diptych embed"
    )
    missing = refused("embed", "--merge", "--out", out)
    assert "emb.parts lacks part 1/2; make it with: diptych embed MODEL SOURCE" in missing
    assert (
        diptych(*words, "--out", out, "--part", "2/2").err == "part 2/2 was done before: 8 images\n"
    )
    last = diptych(*words, "--out", out, "--part", "1/2")
    assert last.out.startswith("all 2 parts are there; join them with: diptych embed --merge")
    joined = diptych("embed", "--merge", "--out", out)
    assert (joined.code, joined.err) == (0, "16 images embedded\n")
    assert {path.name: path.read_bytes() for path in out.rglob("*.*")} == {
        path.name: path.read_bytes() for path in emb.rglob("*.*")
    }
    assert [path.name for path in tmp_path.iterdir()] == ["emb"]


def test_parts_that_do_not_fit_are_refused(diptych, refused, products, tmp_path):
    out = tmp_path / "emb"
    words = ("embed", "tiny", products, "--batch-size", "4", "--out", out)
    for number in (1, 2):
        assert diptych(*words, "--part", f"{number}/2").code == 0
    part = tmp_path / "emb.parts" / "2-of-2"
    data = bytearray((part / "img_emb/img_emb_0.npy").read_bytes())
    data[-1] ^= 1
    (part / "img_emb/img_emb_0.npy").write_bytes(data)
    assert "img_emb/img_emb_0.npy is damaged" in refused("embed", "--merge", "--out", out)
    shutil.rmtree(part)
    other = refused(*words, "--part", "2/2", "--columns", "price")
    assert "1-of-2 was made with other settings (columns None, now {'price': 'float'})" in other
    assert "holds parts of 2, and part 1/3 is of 3" in refused(*words, "--part", "1/3")


def test_a_part_and_ranks_are_not_both_given(refused, products, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = refused("embed", "tiny", products, "--out", tmp_path / "emb", "--part", "1/2")
    assert "--part 1/2 is of one process, and there are 2 ranks" in said


class Graph(NamedTuple):
    embed: Any
    by: str
    precision: str

    def __call__(self, *batch):
        return self.embed(*batch)


def test_the_writing_of_graphs_is_told(diptych, monkeypatch, products, tmp_path):
    def set_backend(model, backend, precision):
        time.sleep(0.2)
        return model

    monkeypatch.setattr("diptych.cli._screen.PATIENCE", 0.01)
    monkeypatch.setattr("diptych.models.backends.set_backend", set_backend)
    called = diptych("embed", "tiny", products, "--out", tmp_path / "emb", "--backend", "openvino")
    assert called.code == 0, called
    assert called.err.startswith("preparing tiny for backend openvino, whose graphs are written")


def test_a_backend_embeds_and_is_named(diptych, monkeypatch, products, tmp_path):
    asked = []

    def set_backend(model, backend, precision):
        asked.append((str(model.device), backend, precision))
        embed = model.encoder.embed_texts
        model.graphs = {"text": Graph(embed, backend, precision)}
        return model

    monkeypatch.setattr("diptych.models.backends.set_backend", set_backend)
    words = ["--backend", "openvino", "--precision", "auto"]
    made = diptych("embed", "tiny", products, "--out", tmp_path / "emb", *words)
    assert made.code == 0
    assert asked == [("cpu", "openvino", "auto")]
    assert "images in float32, texts in auto by openvino: the fastest" in made.err


def test_regions_are_embedded_and_searched(diptych, tmp_path):
    data = "scenes:split=val:number=3:count=6"
    out = tmp_path / "emb"
    made = diptych("embed", "tiny", data, "--regions", "--size", "96", "--out", out)
    assert made.code == 0
    assert "18 regions embedded" in made.err
    found = json.loads(diptych("search", out, "a cup", "-k", "4", "--json").out)
    assert [len(row["box"]) for row in found] == [4] * 4
    shown = diptych("search", out, "a cup", "-k", "4", "--where", "left < 30")
    assert shown.out.startswith("“a cup” where left < 30 in 18 regions")
    titles = shown.out.splitlines()[2].split()
    assert titles == ["#", "cosine", "key", "caption", "left", "top", "right", "bottom"]
    boxes = tmp_path / "boxes.json"
    rows = [{"image": row["key"], "box": row["box"], "name": row["caption"]} for row in found]
    boxes.write_text(json.dumps(rows))
    again = tmp_path / "again"
    options = ("--boxes", boxes, "--size", "96", "--out", again)
    assert diptych("embed", "tiny", data, "--regions", *options).code == 0
    same = json.loads(diptych("search", again, "a cup", "-k", "4", "--json").out)
    assert [(row["key"], row["box"]) for row in same] == [(row["key"], row["box"]) for row in found]
    assert [row["score"] for row in same] == pytest.approx(
        [row["score"] for row in found], abs=1e-4
    )
