"""From captions of satellite tiles to indicators of one's own places, on the command line."""

import json

import pytest

from diptych.data.sources import open_source

CITY = "tiles:count=64:size=24"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Tiles, a model's captions by key, and indicators, as files."""
    place = tmp_path_factory.mktemp("city")
    (place / "images" / "Beijing").mkdir(parents=True)
    lists, rows, told = [], ["Coordinate,carbon"], {}
    for sample in open_source(CITY):
        x, y = (int(each) for each in sample.arrays["place"])
        name = f"Beijing/16_{x}_{y}_s.jpg"
        sample.images["main"].decode().save(place / "images" / name)
        [caption] = sample.captions()
        lists.append([{"caption": caption, "image": name}])
        rows.append(f'"({x}, {y})",{sample.labels["carbon"]:.4f}')
        told[name] = [f"The image depicts {caption}. The carbon is low. It may be a suburb."]
    (place / "captions.json").write_text(json.dumps(lists))
    (place / "told.json").write_text(json.dumps(told))
    (place / "Beijing.csv").write_text("\n".join(rows))
    return place


def test_captions_are_refined_and_learnt_and_indicators_predicted(release, diptych, tmp_path):
    tiles = f"{release}/captions.json:indicators={release}/Beijing.csv:block=2"
    kept = tmp_path / "refined.jsonl"
    told = ("--by", release / "told.json", "--rules", "common=None")
    called = diptych("data", "refine", tiles, *told, "--out", kept)
    assert called.code == 0, called.err
    assert "guessed" in called.out
    assert "told" in called.out
    source = open_source(f"refined:{kept}")
    assert source[0].captions() == open_source(tiles)[0].captions()
    run = tmp_path / "run"
    small = ("--image-tower", "conv:image_size=24:widths=(8,16):depths=(1,1)",
             "--text-tower", "text:width=32:depth=1:heads=2:pooling=cls")  # fmt: skip
    short = ("--epochs", "2", "--batch-size", "20", "--quiet", "--method.select", "true")
    data = ("--data", f"refined:{kept}", "--val", f"{CITY}:split=val")
    called = diptych("train", "urbanclip", *data, *small, *short, "--out", run)
    assert called.code == 0, called.err
    assert f"diptych fit {run} TILES" in called.out
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    [chosen] = [line for line in lines if line.get("event") == "selected"]
    seen = [line["val/contrastive"] for line in lines if line.get("event") == "validation"]
    assert chosen["val/contrastive"] == min(seen)
    words = ("--strategy", "sample", "--top-p", "0.9", "--max-tokens", "3", "--json")
    called = diptych("generate", run, "--images", release / "images" / "Beijing", *words)
    assert called.code == 0, called.err
    assert len(json.loads(called.out)) == 64
    fitted = tmp_path / "fitted"
    called = diptych(
        "fit", run, f"{release}/Beijing.csv:images={release}/images/Beijing", "--epochs", "2",
        "--quiet", "--out", fitted,
    )  # fmt: skip
    assert called.code == 0, called.err
    found = json.loads(diptych("predict", fitted, release / "images" / "Beijing", "--json").out)
    assert set(found["samples"][0]) == {"key", "carbon"}
    measured = diptych("evaluate", run, "--data", tiles, "--suite", "pair_losses,indicators",
                       "--group", "block", "--json")  # fmt: skip
    assert measured.code == 0, measured.err
    reported = json.loads(measured.out)
    assert set(reported["indicators"]["by_indicator"]) == {"carbon"}
    assert reported["pair_losses"]["contrastive"] > 0


def test_selection_needs_data_of_validation(release, diptych, tmp_path):
    start = ("train", "urbanclip", "--data", release / "captions.json", "--out", tmp_path / "run")
    called = diptych(*start, "--quiet", "--method.select", "true")
    assert (called.code, called.err.count("\n")) == (2, 1)
    assert "val/contrastive is best in the validation; give it with --val SOURCE" in called.err
