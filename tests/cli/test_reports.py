"""From reports to maps of phrases and words for masks, by commands alone."""

import json

import pytest
from PIL import Image

from diptych.data.sources import open_source

REPORTS = "reports:size=32:count=12"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All stages, two steps each, the second on reports alone."""
    from diptych.cli import main

    out = tmp_path_factory.mktemp("reports") / "run"
    words = [
        "train", "biovil", "--data", REPORTS, "--data", "reports=reports:count=20:images=false:missing=0.5",
        "--out", str(out), "--steps", "2", "--batch-size", "6", "--embed-dim", "16",
        "--image-tower", "conv:image_size=32:widths=(8,16):depths=(1,1)",
        "--text-tower", "text:width=16:depth=1:heads=2:causal=false:pooling=first",
        "--tokenizer", "bpe:vocab_size=300:context=128:special=mask",
        "--method.projector", "mlp:hidden=16:last_norm=scaled", "--method.recipes", "{}", "--quiet",
    ]  # fmt: skip
    assert main(words) == 0
    return out


def test_all_stages_are_run_and_what_comes_next_is_shown(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    stages = [line["stage"] for line in lines if "loss" in line]
    assert list(dict.fromkeys(stages)) == ["language", "sections", "images", "joint"]


def test_suites_measure_a_run(trained, diptych):
    called = diptych(
        "evaluate", trained, "--data", REPORTS, "--suite", "heatmaps,masked_tokens,retrieval",
        "--role", "impression", "--sigma", 1, "--json",
    )  # fmt: skip
    assert called.code == 0, called
    found = json.loads(called.out)
    results = found.get("results", found)
    assert {"heatmaps", "masked_tokens", "retrieval"} <= results.keys()
    pairs = "reports:count=30:inference=true"
    called = diptych("evaluate", trained, "--data", pairs, "--suite", "nli", "--json")
    assert called.code == 0, called


def test_a_phrase_is_grounded_with_a_filter(trained, diptych, tmp_path):
    image = tmp_path / "x-ray.png"
    open_source(REPORTS)[0].images["main"].decode().save(image)
    maps = []
    for words in ((), ("--sigma", 1.5)):
        called = diptych("ground", trained, image, "a nodule", "--json", *words)
        assert called.code == 0, called
        maps.append(json.loads(called.out)["cosines"])
    spreads = [max(map(max, each)) - min(map(min, each)) for each in maps]
    assert spreads[1] < spreads[0]


def test_masks_are_filled(trained, diptych, refused):
    called = diptych("fill", trained, "no evidence of [MASK]", "--count", 3)
    assert called.code == 0, called
    assert "probability" in called.out
    called = diptych("fill", trained, "[MASK] [MASK]", "--json")
    assert [len(each) for each in json.loads(called.out)["masks"]] == [5, 5]
    assert "write [MASK]" in refused("fill", trained, "no evidence")
    assert "name a text with [MASK]" in refused("fill", trained)
    assert "`diptych train biovil`" in refused("fill", "tiny", "a [MASK]")


def test_phrases_of_a_world_are_written_in_the_published_form(diptych, refused, tmp_path):
    out = tmp_path / "phrases"
    called = diptych(
        "data", "make", "reports:size=32", "--count", 3, "--form", "ms-cxr", "--out", out
    )
    assert called.code == 0, called
    assert "phrases with their boxes" in called.out
    source = open_source(str(out / "MS_CXR.csv"))
    assert isinstance(source[0].images["main"].decode(), Image.Image)
    assert "unknown form" in refused(
        "data", "make", "reports", "--form", "ms_cxr", "--out", tmp_path / "x"
    )
    words = ("--form", "ms-cxr", "--shard", 5, "--out", tmp_path / "x")
    assert "--shard goes with shards" in refused("data", "make", "reports", *words)
