"""ViLLA: regions are mapped from pairs of images and texts alone, and trained with texts of their own
beside whole images."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.factories import AT, make_batch, make_method, random_images

from diptych.data.batch import Images
from diptych.data.sample import Field
from diptych.data.sources import open_source
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.methods.base import At
from diptych.methods.dense.villa import ViLLA
from diptych.objectives import info_nce
from diptych.testing import Toy
from diptych.towers.regions import region_vectors
from diptych.training.engine import Engine
from diptych.training.optim import freeze
from diptych.training.options import Options
from diptych.training.prepare import Run, with_columns

VIT = "vit:image_size=32:patch=8:width=32:depth=2:heads=2"
MAPPING = replace(AT, stage="mapping")
CONTRAST = replace(AT, stage="contrast")
FIELDS = ("images.main", "texts.caption", "boxes")


def method(**config):
    options = {**ViLLA.test_options, "mapping_batch": 6, **config}
    return make_method("villa", image=VIT, **options).eval()


class Placed(Wrapped):
    """A toy whose boxes have other texts, by which they are judged."""

    def __init__(self, texts):
        super().__init__(Toy(12, FIELDS))
        self.texts = texts

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        boxes = [
            replace(box, text=text) for box, text in zip(sample.boxes, self.texts, strict=True)
        ]
        return replace(sample, boxes=boxes)


def prepared(made, source, out=None, seed=0):
    """The source with the columns of both stages that prepare."""
    made.setup({"train": source})
    sources = {"train": source}
    for stage in made.stages()[:2]:
        run = Run(made, sources, At(0, 0, 0, seed, stage.name), torch.device("cpu"), out=out)
        stage.prepare(run)
        sources = with_columns(sources, run.columns)
    return sources["train"]


def units(made, boxes, kept, texts):
    batch = make_batch(len(boxes), {})
    fields = {"regions_boxes": boxes, "units": kept.float(), "units_texts": texts}
    return replace(
        batch, images={"main": Images(random_images(len(boxes))[:, None])}, fields=fields
    )


def test_the_worked_example_of_the_contrast():
    logits = torch.tensor([[3.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    assert float(info_nce(logits, torch.eye(2).double(), 1.0)) == pytest.approx(0.153926, abs=1e-6)


def test_regions_and_whole_images_are_units_of_one_contrast():
    made = method().double()
    boxes = torch.tensor([[[0, 0, 0.5, 1], [0.5, 0, 1, 1], [0, 0, 0, 0]]] * 4)
    texts = F.normalize(torch.randn(4, 4, 32, dtype=torch.float64), dim=-1)
    kept = torch.tensor([[1, 0, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0]]).bool()
    batch = units(made, boxes, kept, texts)
    with torch.no_grad():
        found = made.loss(made.encode(batch, CONTRAST), batch, CONTRAST).total
        rows = []
        for image in range(4):
            pixels = batch.image.flat[image : image + 1]
            regions = region_vectors(made.model, pixels, boxes[image : image + 1])[0]
            rows.append(torch.cat([regions, made.model.embed_images(pixels)])[kept[image]])
        x = torch.cat(rows)
        logits = (x @ texts[kept].T / 0.07).tolist()
    total = 0.0
    for i, row in enumerate(logits):
        column = [other[i] for other in logits]
        for competing in (row, column):
            total -= math.log(math.exp(row[i]) / sum(math.exp(value) for value in competing))
    assert float(found) == pytest.approx(total / 2 / len(logits), abs=1e-8)


def test_without_regions_the_contrast_is_that_of_images_and_texts():
    made = method()
    texts = F.normalize(torch.randn(5, 4, 32), dim=-1)
    kept = torch.zeros(5, 4).bool()
    kept[:, 3] = True
    batch = units(made, torch.zeros(5, 3, 4), kept, texts)
    with torch.no_grad():
        found = made.loss(made.encode(batch, CONTRAST), batch, CONTRAST).total
        expected = info_nce(made.model.embed_images(batch.image.flat), texts[:, 3], 1 / 0.07)
    torch.testing.assert_close(found, expected)


def test_the_mapping_learns_from_pairs_of_images_and_texts_alone():
    """Texts of boxes change neither what the heads read nor what they find."""
    columns = []
    for texts in (("red", "left", "top"), ("blue", "", "a circle")):
        made = method()
        source = prepared(made, Placed(texts))
        columns.append([source[at].arrays for at in range(len(source))])
    for one, other in zip(*columns, strict=True):
        assert set(one) == {"regions", "regions_boxes", "regions_there", "regions_attributes",
                            "regions_found", "regions_sentences", "units", "units_texts"}  # fmt: skip
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])


def test_the_loss_of_the_mapping_is_the_contrast_of_its_best_regions():
    made = method().double()
    torch.manual_seed(1)
    there = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]]).float()
    given = torch.zeros(4, len(made.names))
    given[[0, 1, 1, 2], [0, 0, 4, 2]] = 1
    regions = torch.randn(4, 3, 32, dtype=torch.float64)
    made.attribute_vectors.copy_(F.normalize(torch.randn(len(made.names), 32).double(), dim=-1))
    batch = replace(
        make_batch(4, {}),
        fields={"regions": regions, "regions_there": there, "regions_attributes": given},
    )
    losses = made.loss(made.encode(batch, MAPPING), batch, MAPPING)
    assert losses.logged["attributes_seen"] == 2, "the third image has no region"
    total = 0.0
    for image, at in ((0, 0), (1, 0), (1, 4)):
        scores = {}
        for other in (0, 1, 3):
            head = made.mapper.heads[at]
            cosines = [
                head(regions[other, j]).detach()
                @ made.attribute_vectors[at]
                / head(regions[other, j]).detach().norm()
                for j in range(3)
                if there[other, j]
            ]
            scores[other] = float(max(cosines)) / 0.07
        negatives = [math.exp(scores[k]) for k in (0, 1, 3) if not given[k, at]]
        own = math.exp(scores[image])
        total -= math.log(own / (own + sum(negatives)))
    assert float(losses.total.detach()) == pytest.approx(total / 3, rel=1e-9)


def test_a_batch_without_attributes_teaches_nothing():
    made = method()
    fields = {
        "regions": torch.randn(2, 3, 32),
        "regions_there": torch.ones(2, 3),
        "regions_attributes": torch.zeros(2, len(made.names)),
    }
    batch = replace(make_batch(2, {}), fields=fields)
    losses = made.loss(made.encode(batch, MAPPING), batch, MAPPING)
    assert float(losses.total.detach()) == 0
    losses.total.backward()


def test_regions_get_the_texts_of_their_attributes():
    made = method(eps=2.0)  # each region has all attributes of its image
    source = prepared(made, Toy(12, FIELDS))
    whole = source[5].arrays["units_texts"]
    assert source[5].captions() == ["a blue circle on the left"]
    held = [made.names[at] for at in np.flatnonzero(source[5].arrays["regions_found"][0])]
    assert held == ["blue", "circle", "left"]
    assert source[5].arrays["units"].tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(whole, np.repeat(whole[3:], 4, 0), atol=1e-6)
    cyan = source[4].arrays  # "a cyan circle on the left": cyan is no attribute
    assert [made.names[at] for at in np.flatnonzero(cyan["regions_attributes"])] == [
        "circle",
        "left",
    ]


def test_sentences_are_drawn_by_the_seed(tmp_path):
    class Two(Toy):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            [text] = sample.texts
            return replace(
                sample, texts=[replace(text, text=f"{text.text} . it is so {text.text}")]
            )

    def sentences(seed):
        source = prepared(method(), Two(12, FIELDS), seed=seed)
        return np.stack([source[at].arrays["regions_sentences"] for at in range(12)])

    assert np.array_equal(sentences(0), sentences(0))
    assert not np.array_equal(sentences(0), sentences(1))
    assert set(np.unique(sentences(0))) == {-1, 0, 1}


def test_the_mapping_is_written_with_its_quality_where_that_is_known(tmp_path):
    made = method(eps=2.0)
    prepared(made, Placed(("red, circle", "left", "")), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "regions.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == [f"{at:03d}" for at in range(12)]
    assert [len(row["regions"]) for row in rows] == [3] * 12
    first = rows[0]["regions"][2]
    assert first == {
        "box": [0.0, 0.0, 1.0, 1.0],
        "attributes": ["red", "circle", "left"],
        "text": "a red circle on the left",
    }
    found = json.loads((tmp_path / "mapping.json").read_text())
    # of three regions each has every attribute of its text
    mentions = [len(row["regions"][0]["attributes"]) for row in rows]
    reds = sum("red" in row["regions"][0]["attributes"] for row in rows)
    circles = sum("circle" in row["regions"][0]["attributes"] for row in rows)
    lefts = sum("left" in row["regions"][0]["attributes"] for row in rows)
    assert found["pairs"] == 3 * sum(mentions)
    assert found["precision"] == pytest.approx((reds + circles + lefts) / found["pairs"])
    assert found["recall"] == pytest.approx((reds + circles + lefts) / 36)
    assert found["by_attribute"]["red"]["recall"] == pytest.approx(reds / 12)
    assert set(found["by_attribute"]) == {"red", "circle", "left"}
    prepared(method(), Placed(("", "", "")), tmp_path)
    assert "precision" not in json.loads((tmp_path / "mapping.json").read_text())


def test_grids_need_no_boxes(tmp_path):
    made = method(regions="grid:side=2", max_boxes=4)
    source = prepared(made, Toy(12, ("images.main", "texts.caption")), tmp_path)
    assert source[0].arrays["regions_boxes"].tolist()[1] == [0.5, 0, 1, 0.5]
    assert "precision" not in json.loads((tmp_path / "mapping.json").read_text())


def test_tables_with_boxes_are_read(tmp_path):
    """Rows as users have them: a file, a text of several sentences, boxes x, y, w, h without names."""
    toy = Toy(12, FIELDS)
    rows = []
    for at in range(12):
        toy[at].images["main"].decode().save(tmp_path / f"{at}.png")
        text = f"Here is {toy[at].captions()[0]}. It is new."
        boxes = [{"box": [0, 0, 16, 32]}, {"box": [8, 8, 24, 24]}]
        rows.append(json.dumps({"image": f"{at}.png", "text": text, "boxes": boxes}))
    (tmp_path / "products.jsonl").write_text("\n".join(rows))
    source = prepared(method(), open_source(str(tmp_path / "products.jsonl")), tmp_path)
    first = source[0].arrays
    assert first["regions_boxes"].tolist() == [[0, 0, 0.5, 1], [0.25, 0.25, 1, 1], [0, 0, 0, 0]]
    assert first["regions_there"].tolist() == [1, 1, 0]
    assert first["units"][3] == 1
    lines = [json.loads(line) for line in (tmp_path / "regions.jsonl").read_text().splitlines()]
    texts = {region["text"] for region in lines[0]["regions"]}
    assert texts <= {"Here is a red circle on the left", ""}
    assert texts != {""}, "one region at least has each attribute"


def test_random_regions_are_the_same_in_all_stages():
    made = method(regions="random:count=3")
    source = prepared(made, Toy(12, ("images.main", "texts.caption")))
    sample = source[3]
    image = made.views(made.stages()[2])[0](sample, np.random.default_rng(0), None)["images.main"]
    boxes = torch.from_numpy(sample.arrays["regions_boxes"])[None]
    with torch.no_grad():
        found = F.normalize(torch.from_numpy(sample.arrays["regions"]), dim=-1)
        expected = region_vectors(made.model, image, boxes)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_each_stage_trains_its_own_part():
    made = method()
    mapping, _, contrast = made.stages()
    for stage, prefixes in (
        (mapping, {"mapper"}),
        (contrast, {"model.image", "model.image_projection"}),
    ):
        freeze(made, stage.lr_scale)
        trained = {name for name, p in made.named_parameters() if p.requires_grad}
        assert trained == {
            name
            for name, _ in made.named_parameters()
            if any(name.startswith(f"{prefix}.") for prefix in prefixes)
        }
    assert mapping.recipe["lr"] == 1e-4
    assert contrast.select is None
    chosen = method(select="t2i_r1", patience=3).stages()
    assert (chosen[2].select, chosen[2].patience) == ("val/t2i_r1", 3)
    assert chosen[0].select is None, "the mapping keeps its last weights"
    assert method(select="-loss").stages()[2].select == "-val/loss"


def test_attributes_come_from_options_a_file_or_the_data(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("red\nsmall circle\n")
    assert ViLLA.resolve_options({"attributes": str(names)})["attributes"] == [
        "red",
        "small circle",
    ]
    assert method(attributes="red,blue").names == ("red", "blue")

    class Named(Toy):
        def schema(self):
            return {**super().schema(), "boxes": Field(kind="box", classes=("cat", "dog"))}

    made = method(attributes=())
    made.setup({"train": Named(12, FIELDS)})
    assert made.names == ("cat", "dog")
    assert len(made.mapper.heads) == 2
    shared = method(heads="shared")
    assert len(shared.mapper.heads) == 1
    with pytest.raises(
        InputError, match="have no class names to look for in its texts; name the a"
    ):
        method(attributes=()).setup({"train": Toy(12, FIELDS)})
    with pytest.raises(InputError, match=r"--method.attributes lost.txt: there is no such file"):
        method(attributes="lost.txt")


def test_data_without_regions_or_attributes_are_refused():
    class Bare(Toy):
        def __getitem__(self, index):
            return replace(super().__getitem__(index), boxes=())

    with pytest.raises(InputError, match="toy has no region in any image"):
        prepared(method(), Bare(12, FIELDS))
    with pytest.raises(
        InputError, match="no text of toy mentions an attribute, such as pear; name"
    ):
        prepared(method(attributes=("pear",)), Toy(12, FIELDS))
    with pytest.raises(
        InputError, match="batches of 13, and toy has 12 samples; lower --method.ma"
    ):
        prepared(method(mapping_batch=13), Toy(12, FIELDS))
    with pytest.raises(InputError, match="more-than-2-regions"):
        prepared(method(max_boxes=2), Toy(12, FIELDS))
    with pytest.raises(InputError, match="has no boxes, which ViLLA needs"):
        prepared(method(), Toy(12, ("images.main", "texts.caption")))
    with pytest.raises(InputError, match="method.size is 60 pixels, and the image tower's patches"):
        method(size=60)


def test_towers_that_leave_out_patches_in_training_read_all_of_them():
    made = make_method("villa", image=f"{VIT}:patch_dropout=0.5", **ViLLA.test_options).train()
    boxes = torch.tensor([[[0, 0, 0.5, 1]] * 3] * 2)
    batch = units(made, boxes, torch.ones(2, 4).bool(), torch.randn(2, 4, 32))
    assert made.encode(batch, CONTRAST)["units"].shape == (2, 4, 32)


def test_images_may_be_larger_than_the_towers():
    made = method(size=64)
    view = made.views(made.stages()[2])[0]
    assert view.preprocess.size == 64
    assert view.preprocess.resize == "squash"
    source = prepared(made, Toy(12, FIELDS))
    assert source[0].arrays["regions"].shape == (3, 32)


def test_a_run_writes_both_files_and_the_mapping_moves_its_heads_alone(tmp_path):
    made = method()
    recipe = replace(ViLLA.presets["small"].recipe, steps=2, batch_size=6)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    engine = Engine(made, recipe, {"train": Toy(12, FIELDS)}, tmp_path, Options(quiet=True))
    engine.run()
    moved = {name for name, value in made.state_dict().items() if not value.equal(before[name])}
    assert any(name.startswith("mapper") for name in moved)
    assert any(name.startswith("model.image") for name in moved)
    assert not any(name.startswith("model.text") for name in moved)
    assert (tmp_path / "regions.jsonl").is_file()
    assert json.loads((tmp_path / "mapping.json").read_text())["images"] == 12
