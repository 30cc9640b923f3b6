"""What Python offers beside the command line: embed, search, classify, check and the like."""

from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

import diptych
from diptych.errors import InputError
from diptych.lab.compare import Table
from diptych.lab.stored import read_result
from diptych.lab.tables import Result
from diptych.methods.store import load

COLOURS = {"red": (220, 20, 20), "green": (20, 160, 20), "blue": (20, 20, 220)}


@pytest.fixture(scope="module")
def model():
    return load("tiny")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of one colour with their captions, as files and as a pandas table."""
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for number in range(9):
        name = list(COLOURS)[number % 3]
        path = folder / f"{number}.png"
        pixels = np.full((40, 40, 3), COLOURS[name], np.uint8)
        pixels[: 4 * number] = 255
        Image.fromarray(pixels).save(path)
        rows.append({"image": str(path), "caption": f"a {name} square", "class": name})
    return pandas.DataFrame(rows)


@pytest.fixture(scope="module")
def emb(model, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("emb") / "emb"
    manifest = diptych.embed(model, photos, out)
    assert (manifest.count, manifest.source) == (9, "pandas table of 9 rows")
    return out


def test_a_search_shows_its_images_and_becomes_a_table(model, photos, emb):
    hits = diptych.search(emb, "a red square", k=3)
    assert [hit.rank for hit in hits] == [1, 2, 3]
    table = hits.to_pandas()
    assert list(table["caption"]) == [hit.caption for hit in hits]
    html = hits._repr_html_()
    assert "“a red square”" in html
    assert html.count('<img src="data:image/jpeg;base64,') == 3
    pixels = np.asarray(Image.open(photos["image"][4]))
    [first] = diptych.search(emb, image=pixels, k=1, model=model)
    assert first.image_path == photos["image"][4]
    assert diptych.search(emb, "a red square", k=3, model=model) == hits
    assert diptych.search(emb, "a red square", k=3, model="tiny", exact=True) == hits


def test_an_index_serves_the_search(model, emb):
    state = diptych.index(emb, k=2, lists=1)
    assert state.lists == 1
    assert len(diptych.search(emb, "red", k=2, model=model)) == 2


def test_images_are_named(model, photos, tmp_path):
    found = diptych.classify(model, photos, k=2)
    assert found.classes == ("blue", "green", "red")
    assert len(found) == 9
    assert not found.bad
    assert list(found.to_pandas().columns) == ["image", "class", "probability", "then"]
    [one] = diptych.classify(model, photos["image"][0], ["cat", "dog"])
    assert {name for name, _ in one.classes} == {"cat", "dog"}
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert diptych.classify(model, photos["image"][0], tmp_path / "names.txt")[0] == one
    with pytest.raises(InputError, match="no class is named"):
        diptych.classify(model, [(photos["image"][0], "a")])


def test_numbers_stand_beside_chance(model, photos):
    found = diptych.evaluate(model, photos, ["zeroshot"])
    table = found.to_pandas()
    [top1] = table[table["measure"] == "top1"].to_dict("records")
    assert top1["value"] == found["zeroshot"]["top1"]
    assert top1["chance"] == pytest.approx(1 / 3)
    assert "<td>top1</td>" in found._repr_html_()
    with pytest.raises(InputError, match="no suite is named"):
        diptych.evaluate(model, photos, [])
    with pytest.raises(InputError, match="unknown suite 'zeroshop'"):
        diptych.evaluate(model, photos, "zeroshop")  # a text is one name


def test_a_check_counts_what_is_damaged(photos):
    pairs = [(path, text) for path, text in zip(photos["image"], photos["caption"], strict=True)]
    found = diptych.check([*pairs, ("nowhere.png", "a lost square"), (None, "none")])
    assert found.report.damage == {"missing": 1, "wrong-type": 1}
    assert found.training.method == "clip"
    rows = {row["what"].strip(): row for row in found.records()}
    assert rows["missing"]["such as"] == "9"
    assert "list of 11 pairs: 11 samples" in found._repr_html_()
    assert found.to_dict()["training"]["method"] == "clip"


def test_a_check_of_one_sample_leaves_out_what_training_costs(photos):
    one = photos.head(1)
    found = diptych.check(one)
    assert (found.report.samples, found.training) == (1, None)
    assert found.records()[-1]["what"] == "reading an epoch"
    with pytest.raises(InputError, match="siglip trains on batches of at least 2 samples, and"):
        diptych.check(one, method="siglip")


def test_an_export_into_a_folder_that_exists_is_refused(model, tmp_path):
    with pytest.raises(InputError, match="exists already; name a new folder"):
        diptych.export(model, "onnx", tmp_path)


def test_a_comparison_is_read_as_a_table(tmp_path):
    how = {"optimizer": "muon", "lr": 0.1, "schedule": "cosine", "batch_size": 8}
    size = {"size": 1.0, "budget": 8, "samples": 8, "gflops": 1.0, "parameters": 10}
    rows = [
        {"method": "clip", "seed": seed, **size, **how, "metrics": {"retrieval/t2i_r1": value}}
        for seed, value in enumerate((0.25, 0.75))
    ]
    told = {"data": "a.tar", "test": "b.tar", "suites": ("retrieval",), "methods": ["clip"]}
    table = Table(folder=tmp_path, **told, rows=rows)
    [row] = table.to_pandas().to_dict("records")
    assert row["t2i_r1"] == 0.5
    assert row["t2i_r1 low"] < 0.5 < row["t2i_r1 high"]
    assert "measured on b.tar" in table._repr_html_()


def test_a_comparison_of_what_does_not_exist_is_refused(tmp_path):
    what = {"data": "glyphs", "test": "glyphs", "budget": 8, "out": tmp_path / "cmp"}
    with pytest.raises(InputError, match="suite 'retrievel'; did you mean 'retrieval'"):
        diptych.compare(["clip"], suites=["retrievel"], **what)
    with pytest.raises(InputError, match="'lrr' of recipe|option of recipe 'lrr'"):
        diptych.compare(["clip"], lrr=1, **what)
    assert not (tmp_path / "cmp").exists()


def test_a_claim_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="claim 'lino'; did you mean 'lion'"):
        diptych.reproduce("lino")


def test_a_result_of_a_claim_shows_arms_and_verdict():
    folder = Path(__file__).parents[2] / "results" / "claims"
    result = Result(read_result(folder / "contrastive_gap.json") or {})
    assert "arm" in result.records()[0]
    assert result["verdict"] in result._repr_html_()
