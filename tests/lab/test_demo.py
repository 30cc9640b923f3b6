"""The demo's protocol. Only `CHOICE` is measured here: the design and the concepts that `FINAL`
keeps stay unseen."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.data.images import Preprocess, on_ground
from diptych.data.views import place
from diptych.embeddings.query import embed_and_query
from diptych.errors import InputError
from diptych.lab import demo
from diptych.lab.demo import CHOICE, FINAL, run_demo
from diptych.lab.demo.page import Queries
from diptych.lab.demo.trial import LOOKUP, Placed, Trial, pixel_lookup, small_pixels

TINY = Trial(designs=("noto", "fluent-flat"), held_out="emojione", learnt="val", unseen="val")


class PixelModel:
    """Images to their 16 x 16 pixels, names to the mean of their training drawings."""

    name, identity, tokenizer, preprocess = "pixels", "sha256:pixels", "names", Preprocess(size=64)

    def __init__(self, trial):
        drawings = trial.source(trial.learnt, *trial.designs)
        pixels = small_pixels(drawings)
        self.mean = pixels.mean(0)
        self.names = {}
        for i in range(len(drawings)):
            self.names.setdefault(drawings[i].captions()[0], []).append(pixels[i])

    def unit(self, rows):
        return torch.nn.functional.normalize(torch.stack(rows) - self.mean, dim=-1)

    def embed_images(self, images, batch_size=64, **_):
        if isinstance(images, torch.Tensor):
            images = [Image.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in images]
        images = [image if isinstance(image, Image.Image) else image.decode() for image in images]
        small = [
            on_ground(image).resize((LOOKUP, LOOKUP), Image.Resampling.BOX) for image in images
        ]
        return self.unit(
            [torch.from_numpy(np.array(image)).flatten().float() / 255 for image in small]
        )

    def embed_texts(self, texts, **_):
        grey = torch.full((3 * LOOKUP**2,), 0.5)
        return self.unit([torch.stack(self.names.get(text, [grey])).mean(0) for text in texts])


def train(source, run, seed):
    run.mkdir()
    lines = [
        {"event": "start", "done": 0},
        *({"done": i, "loss": math.exp(-i / 9)} for i in range(30)),
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def pixel_model(monkeypatch):
    monkeypatch.setattr(demo, "load", lambda folder: PixelModel(TINY))


def test_what_is_kept_for_the_final_tests_is_named_in_no_training():
    assert FINAL.held_out not in FINAL.designs
    assert (
        FINAL.spec(FINAL.learnt, *FINAL.designs)
        == "glyphs:split=train+val:design=noto+fluent-flat+emojione"
    )
    assert "test" not in FINAL.learnt.split("+")
    assert FINAL.held_out not in {*CHOICE.designs, CHOICE.held_out}
    assert FINAL.unseen not in {*CHOICE.learnt.split("+"), CHOICE.unseen}
    assert len(FINAL.source(FINAL.learnt, "noto")) == 1440
    assert len(FINAL.source(FINAL.unseen, "noto")) == 192


def test_placed_images_are_whole_on_one_colour_and_a_function_of_seed_and_key():
    plain = TINY.source("val", "emojione")
    placed, same, other = Placed(plain, 3), Placed(plain, 3), Placed(plain, 4)
    shrinks, corners, grounds = [], [], []
    for i in range(len(placed)):
        image = placed[i].images["main"]
        shrinks.append(image.shrink)
        corners.append(image.at)
        grounds.append(image.ground)
        assert image == same[i].images["main"] != other[i].images["main"]
    image = np.asarray(placed[0].images["main"].decode())
    assert image.shape == (64, 64, 3)
    assert placed.keys() == plain.keys()
    assert placed[5].captions() == plain[5].captions()
    assert 1.0 <= min(shrinks) < 1.05 < 1.75 < max(shrinks) <= 1.8
    assert np.mean(corners, 0) == pytest.approx([0.5, 0.5], abs=0.08)
    assert np.mean(grounds, 0) == pytest.approx([127.5] * 3, abs=20)
    assert np.ptp(grounds, 0).min() > 220


@pytest.mark.parametrize("at", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.9)])
@pytest.mark.parametrize("shrink", [1.0, 1.31, 1.8])
def test_a_placed_drawing_loses_no_pixel(shrink, at):
    solid = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    image = np.asarray(place(solid, 64, shrink, at, (0, 0, 255)))
    assert ((image == (255, 0, 0)).all(-1)).sum() == round(64 / shrink) ** 2


def test_pixel_lookup_equals_a_slow_reference():
    gallery, drawings = TINY.source("val", "emojione"), TINY.source("val", "noto", "fluent-flat")

    def small(source, i):
        return (
            np.asarray(
                on_ground(source[i].images["main"].decode()).resize((16, 16), Image.Resampling.BOX)
            )
            / 255
        )

    pixels = [small(gallery, i) for i in range(len(gallery))]
    training = [(drawings[i].labels["concept"], small(drawings, i)) for i in range(len(drawings))]
    hits = 0
    for right in range(len(gallery)):
        mine = [d for concept, d in training if concept == gallery[right].labels["concept"]]
        distance = np.array([min(np.linalg.norm(image - d) for d in mine) for image in pixels])
        hits += (distance <= distance[right]).sum() <= 5
    assert pixel_lookup(gallery, drawings) == pytest.approx(hits / len(gallery))


def test_placement_undoes_the_pixel_lookup():
    gallery, drawings = TINY.source("val", "emojione"), TINY.source("val", *TINY.designs)
    assert pixel_lookup(gallery, drawings) > 0.4
    assert pixel_lookup(Placed(gallery, 0), drawings) < 0.2


def test_queries_are_drawn_by_the_seed_alone():
    assert Queries.draw(TINY, 0) == Queries.draw(TINY, 0) != Queries.draw(TINY, 1)
    drawn = Queries.draw(TINY, 0)
    assert len({*drawn.names, *drawn.drawings}) == 10


def test_run_writes_nested_metrics_and_a_report_that_says_met_or_missed(tmp_path, pixel_model):
    reported = []
    options = dict(seed=5, search=embed_and_query, train=train, trial=TINY)
    metrics = run_demo(tmp_path / "demo", progress=reported.append, **options)
    assert metrics == json.loads((tmp_path / "demo/metrics.json").read_text())
    recalls = {"n", "t2i_r1", "t2i_r5", "i2t_r1", "i2t_r5"}
    assert set(metrics) == {"unseen_design", "unseen_concepts", "seconds_train", "steps", "seed"}
    assert set(metrics["unseen_concepts"]) == recalls
    for name in ("plain", "placed"):
        assert set(metrics["unseen_design"][name]) == {*recalls, "pixel_lookup_r5"}
    assert (metrics["steps"], metrics["seed"]) == (30, 5)
    assert metrics["unseen_design"]["plain"]["n"] == len(TINY.source("val", "emojione"))
    html = (tmp_path / "demo/report.html").read_text()
    assert "missed" in html
    assert "CC-BY-4.0" in html
    assert html.count("<img ") > 100
    assert (tmp_path / "demo/embeddings/img_emb/img_emb_0.npy").exists()
    assert len(reported) == 3
    assert run_demo(tmp_path / "demo", **options)["unseen_design"] == metrics["unseen_design"]


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        run_demo(tmp_path, search=embed_and_query, train=train, trial=TINY)
    assert (tmp_path / "run" / "mine.txt").read_text() == "mine"
