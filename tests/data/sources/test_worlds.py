"""Worlds as sources: names, counts, seeds, keys, joins, and what a misspelt option is told."""

import pickle
import re

import numpy as np
import pytest
from PIL import Image

from diptych.data import worlds
from diptych.data.images import Preprocess
from diptych.data.loader import Loader
from diptych.data.plan import Distinct, Shuffled, labels_of
from diptych.data.sample import Box, Field, Sample, Source, Text
from diptych.data.sources import formats, open_source
from diptych.data.sources._files import warn_of_path
from diptych.data.views import ImageView, LabelView
from diptych.data.worlds import Drawn, Rendered, World, WorldSource
from diptych.errors import InputError
from diptych.spec import several


def test_a_world_is_a_source_and_lists_its_options_in_its_name():
    source = open_source("scenes:count=7:seed=2:start=10:size=48")
    assert isinstance(source, Source)
    assert (len(source), source.name) == (7, "scenes:count=7:seed=2:start=10:size=48")
    assert list(source.keys())[:2] == ["train-2-000010", "train-2-000011"]
    assert list(source.keys()[5:]) == ["train-2-000015", "train-2-000016"]
    assert source[-1].key == source.keys()[-1] == source[6].key
    with pytest.raises(IndexError):
        source[7]
    assert formats()["world"].FORMAT == "world"
    assert len(open_source("scenes")) == 1000


def test_a_folder_of_the_name_of_data_of_the_package_is_warned_of_once(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    for name in ("names", "glyphs"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    warn_of_path.cache_clear()
    sources = [open_source("names"), open_source("names:count=4"), open_source("./names")]
    assert [len(source) for source in sources] == [1000, 4, 1]
    assert len(open_source("glyphs:split=val")) > 1
    assert caplog.messages == [
        "names is the generated world; write ./names for the folder",
        "glyphs is the set of drawings; write ./glyphs for the folder",
    ]
    warn_of_path.cache_clear()


def test_seeds_are_different_streams_and_starts_the_same():
    a, b, later = (open_source(f"scenes:count=5{more}") for more in ("", ":seed=1", ":start=2"))
    assert [x.captions() for x in a] != [x.captions() for x in b]
    assert a[3].texts == later[1].texts


def test_worlds_are_joined_with_other_sources():
    both = open_source("scenes:count=3,scenes:count=2:split=novel,glyphs:split=test:design=noto")
    assert len(both) == 5 + 192
    names = both.schema()["labels.object"].classes
    assert names[both[0].labels["object"]] in both[0].boxes[0].text
    assert (
        names[both[4].labels["object"]]
        in worlds.build("scenes", {"split": "novel"}).catalogue.classes
    )
    assert both.schema()["boxes"].optional


def test_a_loader_reads_a_world_with_any_number_of_workers():
    source = open_source("scenes:count=12:texts=caption")
    views = [ImageView(preprocess=Preprocess(size=32)), LabelView(label="object")]
    batches = [
        [batch for batch in Loader(source, views, Shuffled(), 4, workers=workers).epoch(0)]
        for workers in (0, 2)
    ]
    for one, two in zip(*batches, strict=True):
        assert one.keys == two.keys
        assert np.array_equal(one.image.pixels, two.image.pixels)
        assert one.fields["object"].tolist() == two.fields["object"].tolist()


def test_plans_read_labels():
    source = open_source("scenes:count=40:texts=caption")
    labels = labels_of(source, "colour")
    assert labels.tolist() == [sample.labels["colour"] for sample in source]
    for batch in Distinct("colour")(source, 0, 0, 8):
        assert len(set(labels[batch])) == len(batch)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scenes:cuont=5", "unknown option of source 'scenes' 'cuont'; did you mean 'count'?"),
        ("scenes:count=many", "'count' of source 'scenes' is 'many'; it must be a whole number"),
        ("scenes:count=0", "'count' of source 'scenes' is 0; it must be at least 1"),
        ("scenes:seed=-1", "'seed' of source 'scenes' is -1; it must be at least 0"),
    ],
)
def test_misspelt_and_wrong_options(spec, message):
    with pytest.raises(InputError, match=re.escape(message)):
        open_source(spec)
    with pytest.raises(InputError, match="did you mean 'scenes'"):
        worlds.build("scnes")


def test_several_values_keep_the_order_of_the_choices():
    assert several("x", "c+a", "abc") == ("a", "c")
    assert several("x", "all", ("a", "b")) == ("a", "b")
    with pytest.raises(InputError, match="did you mean 'seen'"):
        several("x", "seem", ("a", "b"), also=("seen",))


class Dots(World[int]):
    """A world of one's own: as little as the contract asks for."""

    name = "dots"

    def sample(self, seed, index):
        return 10 * seed + index

    def render(self, facts):
        from PIL import Image

        box = Box(xyxy=(0, 0, 1, 1))
        return Rendered(
            image=Image.new("RGB", (4, 4), (facts, 0, 0)),
            arrays={"x": np.full(2, facts)},
            boxes=[box],
        )

    def captions(self, facts):
        return [Text(text=str(facts))]

    def example(self, facts, key):
        drawn = Drawn(self, facts)
        return Sample(
            key=key,
            source=self.name,
            images={"main": drawn.image()},
            texts=self.captions(facts),
            arrays=drawn.arrays("x"),
            boxes=drawn.boxes(1),
        )

    def schema(self):
        return {"images.main": Field(kind="image"), "texts.caption": Field(kind="text")}


def test_a_world_needs_no_more_than_the_contract():
    from diptych.data.worlds.scenes import Config

    source = WorldSource(Dots(Config()), 3, seed=1)
    sample = pickle.loads(pickle.dumps(source[2]))
    assert (sample.key, sample.captions()) == ("1-000002", ["12"])
    assert sample.images["main"].decode().getpixel((0, 0)) == (12, 0, 0)
    assert dict(sample.arrays)["x"].tolist() == [12, 12]
    assert (len(sample.boxes), sample.boxes[0].xyxy) == (1, (0, 0, 1, 1))
    with pytest.raises(KeyError):
        sample.arrays["y"]
    with pytest.raises(InputError, match="unknown edit of dots 'swap'"):
        source.world.edit(1, "swap")
