"""The data check against data sets whose faults are known by construction."""

import io
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data.check import check
from diptych.data.duplicates import alike_pairs
from diptych.data.images import BytesImage
from diptych.data.sample import BadSample, Field, Sample, Text
from diptych.data.sources import open_source


class Made:
    """A source made of (key, image bytes, captions)."""

    name = "made"

    def __init__(self, *rows, damage=None, fields=("images.main",)):
        self.rows, self.damage, self.fields = rows, damage or {}, fields

    def __len__(self):
        return len(self.rows)

    def keys(self):
        return [row[0] for row in self.rows]

    def schema(self):
        return {name: Field(kind=name.partition(".")[0].removesuffix("s")) for name in self.fields}

    def __getitem__(self, index):
        key, data, texts = self.rows[index]
        if texts is None:
            raise BadSample("utf8")
        images = {} if data is None else {"main": BytesImage(data)}
        return Sample(
            key=key, source=self.name, images=images, texts=[Text(text=text) for text in texts]
        )


def photo(seed, format="PNG", size=(64, 48), **options):
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


class Words:
    """A tokenizer of words with room for three."""

    context = 5

    def ids(self, text):
        return text.split()

    def lost(self, text):
        return max(0, len(text.split()) - 3)


def test_damage_is_counted_by_reason_and_place():
    source = Made(
        ("ok", photo(0), ["x"]),
        ("html", b"<html>", ["x"]),
        ("cut", photo(1)[:-40], ["x"]),
        ("text", photo(2), None),
        ("none", None, ["x"]),
        damage={"shard.tar:end": "truncated"},
    )
    report = check(source)
    assert report.damage == {"truncated": 2, "html": 1, "utf8": 1, "no-image": 1}
    assert report.damaged["cut"] == report.damaged["shard.tar:end"] == "truncated"
    assert report.bad_share == 5 / 6
    json.dumps(report.to_dict())


def test_a_source_of_texts_alone_lacks_no_images():
    rows = [(str(i), None, [f"text {i}"]) for i in range(3)]
    assert check(Made(*rows, fields=("texts.caption",))).damage == {}
    assert check(Made(*rows, fields=("images.main", "texts.caption"))).damage == {"no-image": 3}


def test_exact_and_look_alike_images_are_found():
    source = Made(
        *[(f"{seed}", photo(seed), []) for seed in range(200)],
        ("copy", photo(7), []),
        ("small", photo(8, size=(48, 36)), []),
        ("jpeg", photo(9, "JPEG", quality=75), []),
    )
    report = check(source)
    assert (report.duplicates.images, report.duplicates.groups) == (1, [["7", "copy"]])
    assert report.alike.images == 3
    assert sorted(map(sorted, report.alike.groups)) == [
        ["7", "copy"],
        ["8", "small"],
        ["9", "jpeg"],
    ]


def test_colours_alone_tell_images_apart():
    flat = [
        np.full((8, 9, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255), (250, 2, 2))
    ]
    assert alike_pairs(flat) == [(0, 2)]


def test_caption_lengths_and_lost_tokens():
    report = check(
        Made(("a", photo(0), ["one two", "one two three four five"]), ("b", photo(1), ["x"])),
        tokenizer=Words(),
    )
    captions = report.captions
    assert (captions.count, captions.cut, captions.lost, captions.context) == (3, 1, 2, 5)
    assert (captions.tokens.min, captions.tokens.max) == (1, 5)
    assert (captions.per_sample.min, captions.per_sample.max) == (1, 2)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3), min_size=2, max_size=5),
    st.integers(2, 6),
)
def test_expected_false_negatives_equal_the_mean_over_all_batches(texts, batch):
    source = Made(*[(str(n), None, captions) for n, captions in enumerate(texts)])
    batch = min(batch, len(texts))
    each = []
    for chosen in itertools.combinations(range(len(texts)), batch):
        shown = list(itertools.product(*[texts[n] for n in chosen]))
        each.append(
            np.mean([sum(a == b for a, b in itertools.permutations(row, 2)) for row in shown])
        )
    assert check(source, batch_size=batch).false_negatives.per_batch == pytest.approx(np.mean(each))


def test_captions_that_many_samples_share_are_named():
    rows = [(str(n), None, ["A  photo" if n < 6 else f"only {n}"]) for n in range(10)]
    found = check(Made(*rows), batch_size=4).false_negatives
    assert found.captions == [("A  photo", 6)]
    assert found.per_sample == pytest.approx(6 * 5 * 3 / (10 * 9))


def test_leakage_between_training_and_validation():
    train = Made(*[(f"t{seed}", photo(seed), [f"caption {seed}"]) for seed in range(20)])
    val = Made(
        ("same", photo(3), ["new"]),
        ("alike", photo(4, "JPEG", quality=80), ["new too"]),
        ("told", photo(100), ["Caption 5"]),
        ("clean", photo(101), ["fresh"]),
    )
    leakage = check(train, val=val).leakage
    assert (leakage.samples, leakage.same_image, leakage.alike_image, leakage.same_caption) == (
        4,
        1,
        1,
        1,
    )
    assert leakage.examples == ["alike", "same"]
    assert leakage.pairs == [
        ("same", "t3", "the same image"),
        ("alike", "t4", "nearly the same image"),
        ("told", "t5", "the caption"),
    ]


def test_cost_of_a_batch_and_an_epoch():
    cost = check(Made(*[(str(n), photo(n), []) for n in range(4)]), batch_size=32, size=64).cost
    assert cost.batch_bytes == 32 * 3 * 64 * 64
    assert cost.similarity_bytes == 4 * 32 * 32
    assert cost.read_ms > 0
    assert cost.epoch_seconds == pytest.approx(cost.read_ms * 4 / 1000)
    assert cost.stored_bytes == sum(len(photo(n)) for n in range(4))


def test_processes_see_what_one_process_sees():
    source = open_source("glyphs:split=test:design=noto")
    seen = []
    one = check(source).to_dict()
    two = check(
        source, workers=2, progress=lambda done, total: seen.append((done, total))
    ).to_dict()
    assert one.pop("cost").keys() == two.pop("cost").keys()
    assert one == two
    assert seen == [(64, 192), (128, 192), (192, 192)]


def test_an_undamaged_pack_is_clean(data_pack):
    report = check(open_source(str(data_pack("flickr8k-1k") / "test.tar")))
    assert (report.damage, report.duplicates.images, report.alike.images) == ({}, 0, 0)
    assert report.captions.count == 1000


def class_folder(folder):
    """A folder a class: three cats, one dog, an empty one, and a cat that is a dog as well."""
    for name, seed in [("cat/1", 1), ("cat/2", 2), ("cat/3", 3), ("dog/4", 4), ("dog/5", 3)]:
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(seed))
    (folder / "owl").mkdir()
    return folder


def test_classes_are_counted_and_empty_and_shared_ones_named(tmp_path):
    [classes] = check(open_source(str(class_folder(tmp_path)))).labels
    assert (classes.label, classes.counts, classes.empty) == (
        "class",
        {"cat": 3, "dog": 2, "owl": 0},
        ["owl"],
    )
    assert (classes.without, classes.images) == (0, 1)
    assert classes.twice == [(["cat/3.png", "dog/5.png"], ["cat", "dog"])]


def test_samples_of_no_class_are_counted(tmp_path):
    (tmp_path / "a.png").write_bytes(photo(1))
    (tmp_path / "t.csv").write_text("image,text,label\na.png,x,cat\nb.png,y,dog\nc.png,z,\n")
    [classes] = check(open_source(str(tmp_path / "t.csv"))).labels
    assert (classes.counts, classes.without) == ({"cat": 1, "dog": 1}, 1)
    (tmp_path / "u.csv").write_text("image,text,label\na.png,x,1\n")
    assert check(open_source(str(tmp_path / "u.csv"))).labels == []


def test_a_label_beyond_the_classes_is_of_none():
    class Beyond(Made):
        def schema(self):
            return {**super().schema(), "labels.class": Field(kind="int", classes=("cat", "dog"))}

        def __getitem__(self, index):
            return replace(super().__getitem__(index), labels={"class": 5 if index else 1})

    [classes] = check(Beyond(("a", photo(1), []), ("b", photo(1), []))).labels
    assert (classes.counts, classes.without, classes.images) == ({"cat": 0, "dog": 1}, 1, 0)


def test_a_image_too_thin_for_the_size_of_training_is_damaged():
    thin = io.BytesIO()
    Image.new("L", (1, 3000)).save(thin, "PNG")
    source = Made(("thin", thin.getvalue(), []), ("ok", photo(1), []))
    assert check(source).damaged == {"thin": "bomb"}
    assert check(source, size=32).damaged == {}
