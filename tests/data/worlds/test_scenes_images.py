"""What is drawn is what is annotated: masks, boxes, depth, colours, places and sizes against the
pixels."""

import importlib.util
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.data.worlds import WorldSource, build
from diptych.data.worlds.scenes import World as Scenes
from diptych.data.worlds.scenes.concepts import KINDS, table
from diptych.data.worlds.scenes.draw import FACTORS
from diptych.data.worlds.scenes.sample import SIDES
from diptych.data.worlds.scenes.styles import palette, render
from diptych.data.worlds.scenes.words import (
    COLOURS,
    GROUNDS,
    PALETTES,
    PLACES,
    RENDERINGS,
    SIZES,
    STYLES,
    TEXTURES,
)
from diptych.errors import InputError


def pixels(world, scene):
    return np.asarray(world.render(scene).image).astype(int)


def without(scene, gone):
    """The scene without one object."""
    things = [
        replace(thing, items=tuple(item for item in thing.items if item.id != gone))
        for thing in scene.things
    ]
    return replace(scene, things=tuple(thing for thing in things if thing.items))


def only(scene, kept):
    for item in scene.items:
        if item.id != kept:
            scene = without(scene, item.id)
    return scene


def array(image):
    return np.asarray(image).astype(int)


WORLDS = {
    "plain": {},
    "crowded": {"number": "5-8", "same": 0.2, "occlusion": 1.0, "objects": "common+shapes"},
    "distracted": {"number": "1-3", "distractors": 3, "size": 96},
    "small": {"size": 32},
}


@pytest.mark.parametrize("name", WORLDS)
def test_masks_depth_and_boxes_are_those_of_the_objects_drawn_alone(name):
    """Slow reference: every object alone, then the nearest one at each pixel."""
    world = build("scenes", WORLDS[name])
    for index in range(12):
        scene = world.sample(0, index)
        drawn = world.render(scene)
        owner, depth = np.full((world.config.size,) * 2, -1), np.ones((world.config.size,) * 2)
        for item in scene.items:
            alone = array(world.render(only(scene, item.id)).masks["instance"]) == item.id + 1
            nearer = alone & (item.depth < depth)
            owner[nearer], depth[nearer] = item.id, item.depth
        assert np.array_equal(array(drawn.masks["instance"]), owner + 1)
        assert np.allclose(drawn.arrays["depth"], depth, atol=1e-6)
        thing_of = {item.id: thing for thing in scene.things for item in thing.items}
        for item, box in zip(scene.items, drawn.boxes, strict=True):
            rows, columns = np.nonzero(owner == item.id)
            assert box.xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            thing = thing_of[item.id]
            expected = -1 if thing.foreign else world.catalogue.classes.index(thing.concept)
            assert box.label == expected
            assert thing.concept in box.text
            inside = owner == item.id
            assert set(array(drawn.masks["class"])[inside]) == {expected + 1}
            kind = 0 if thing.foreign else KINDS.index(table()[thing.concept].coarse) + 1
            assert set(array(drawn.masks["coarse"])[inside]) == {kind}
        assert (array(drawn.masks["class"])[owner < 0] == 0).all()


@pytest.mark.parametrize("style", STYLES)
def test_pixels_change_where_the_mask_is_and_nowhere_far(style):
    """Take an object away: the image changes on its mask, and else only a few pixels about (shadow,
    filter)."""
    world = build(
        "scenes", {"styles": style, "number": "1-3", "colours": "red+blue+green", "occlusion": 0}
    )
    for index in range(8):
        scene = world.sample(1, index)
        item = scene.items[-1]
        mask = array(world.render(scene).masks["instance"]) == item.id + 1
        changed = (pixels(world, scene) != pixels(world, without(scene, item.id))).any(-1)
        assert changed[mask].mean() > 0.9
        near = sprite_window(mask, 8)
        assert not changed[~near].any()


def sprite_window(mask, margin):
    rows, columns = np.nonzero(mask)
    near = np.zeros_like(mask)
    near[
        max(rows.min() - margin, 0) : rows.max() + margin + 1,
        max(columns.min() - margin, 0) : columns.max() + margin + 1,
    ] = True
    return near


def test_every_object_is_seen_and_some_are_partly_hidden():
    shares = {"2-4": [], "5-8": []}
    for number, found in shares.items():
        world = build("scenes", {"number": number, "occlusion": 0.5})
        for index in range(100):
            scene = world.sample(0, index)
            owner = array(world.render(scene).masks["instance"])
            for item in scene.items:
                whole = array(world.render(only(scene, item.id)).masks["instance"]) > 0
                found.append((owner == item.id + 1).sum() / whole.sum())
    for found in map(np.array, shares.values()):
        assert found.min() > 0.5
        assert 0.05 < (found < 0.97).mean() < 0.4


def test_places_and_sizes_are_those_of_the_masks():
    world = build("scenes", {"number": 1, "size": 128})
    for index in range(60):
        scene = world.sample(0, index)
        thing = scene.things[0]
        x0, y0, x1, y1 = (value / 128 for value in world.render(scene).boxes[0].xyxy)
        low, high = SIDES[thing.size]
        assert low - 0.03 < max(x1 - x0, y1 - y0) < high + 0.03
        assert (
            thing.place
            == f"{'bottom' if y0 + y1 > 1 else 'top'} {'right' if x0 + x1 > 1 else 'left'}"
        )
    bounds = [SIDES[size] for size in SIZES]
    assert all(a[1] < b[0] for a, b in pairwise(bounds))


def test_colours_look_like_their_names():
    """The hue of what is drawn is nearest to that of its colour among the eight."""
    world = build("scenes", {"number": 1, "objects": "common+shapes"})
    names = list(COLOURS)

    def direction(values):
        values = np.asarray(values, float) / 255
        return (values - values.mean(-1, keepdims=True)) / np.linalg.norm(
            values - values.mean(-1, keepdims=True)
        )

    hues = np.stack([direction(COLOURS[name]) for name in names])
    right = []
    for index in range(150):
        scene = world.sample(0, index)
        drawn = world.render(scene)
        mean = np.median(array(drawn.image)[array(drawn.masks["instance"]) > 0], axis=0)
        right.append(names[int(np.argmax(hues @ direction(mean)))] == scene.things[0].colour)
    assert np.mean(right) > 0.97


def test_grounds_can_be_told_apart_by_simple_statistics():
    """A nearest-mean rule on colours and gradients names the ground of most images, so that a model
    can."""
    world = build("scenes", {"number": 1})

    def features(image):
        steps = (
            np.abs(np.diff(image, axis=0)).mean((0, 1)),
            np.abs(np.diff(image, axis=1)).mean((0, 1)),
        )
        return np.concatenate([np.median(image, (0, 1)), *steps])

    rows, grounds = [], []
    for index in range(300):
        scene = world.sample(0, index)
        rows.append(features(pixels(world, scene)))
        grounds.append(scene.ground)
    rows, grounds = np.array(rows) / np.std(rows, axis=0), np.array(grounds)
    means = np.stack([rows[:200][grounds[:200] == name].mean(0) for name in GROUNDS])
    guessed = np.argmin(((rows[200:, None] - means) ** 2).sum(-1), axis=1)
    assert np.mean(np.array(list(GROUNDS))[guessed] == grounds[200:]) > 0.9


def test_textures_styles_and_palettes_change_pixels():
    world = build("scenes", {"number": 1, "objects": "circle", "size": 96})
    scene = world.sample(0, 0)
    seen = {
        texture: pixels(world, scene.with_thing(0, texture=texture)).tobytes()
        for texture in TEXTURES
    }
    assert len(set(seen.values())) == 4
    whole = [replace(scene, rendering=name) for name in RENDERINGS] + [
        replace(scene, palette=name) for name in PALETTES
    ]
    assert (
        len({pixels(world, one).tobytes() for one in whole}) == len(whole) - 1
    )  # flat and natural are the scene itself


@pytest.mark.parametrize("name", [name for name in RENDERINGS if name not in ("flat", "grain")])
def test_renderings_are_local(name):
    """A change of one pixel reaches no further than 6 pixels in an image of 64."""
    image = np.random.default_rng(0).uniform(0, 255, (64, 64, 3)).astype(np.float32)
    other = image.copy()
    other[32, 32] = 255 - other[32, 32]
    rows, columns = np.nonzero((render(name, image, 5) != render(name, other, 5)).any(-1))
    assert len(rows)
    assert max(abs(rows - 32).max(), abs(columns - 32).max()) <= 6


def test_palettes_keep_hues():
    colours = np.array([list(COLOURS.values())], np.float32)
    for name in PALETTES:
        new = palette(name, colours)[0]
        centred, original = (
            new - new.mean(-1, keepdims=True),
            colours[0] - colours[0].mean(-1, keepdims=True),
        )
        cosine = (
            (centred * original).sum(-1)
            / np.linalg.norm(centred, axis=-1)
            / np.linalg.norm(original, axis=-1)
        )
        assert cosine.min() > 0.93, name


def test_signals_are_as_strong_as_asked():
    base = build("scenes", {"number": 1})
    scene = base.sample(0, 3)

    def changed(**options):
        world = build("scenes", {"number": 1, **options})
        marked = replace(
            scene,
            easy="red" if "easy" in options else "",
            hard="level" if "hard" in options else "",
        )
        return np.abs(pixels(world, marked) - pixels(base, scene)).mean()

    assert 0 < changed(hard=0.2) < changed(hard=1.0) < changed(easy=1.0)
    assert changed(easy=0.3) < changed(easy=1.0)
    drawn = [build("scenes", {"overlay": 0.5}).sample(0, index).salient for index in range(400)]
    assert abs(np.mean([bool(shape) for shape in drawn]) - 0.5) < 0.08
    stamped = pixels(base, replace(scene, salient="cross"))
    assert stamped[32, 32].mean() > pixels(base, scene)[32, 32].mean()
    assert np.array_equal(stamped[:8], pixels(base, scene)[:8])


def test_stamps_anywhere_lie_in_the_corner_and_have_the_size_of_their_labels():
    base = build("scenes", {"number": 1, "overlay": 0.5})
    world = build("scenes", {"number": 1, "overlay": 0.5, "stamp": "anywhere"})
    seen = set()
    for at in range(60):
        scene = world.sample(0, at)
        labels = world.example(scene, "").labels
        plain = replace(scene, salient="")
        assert scene == base.sample(0, at)  # all else is as without the option
        assert ((labels["stamp"] < 0), (labels["stamp"] < 0)) == (
            labels["stamp_place"] < 0,
            np.isnan(labels["stamp_size"]),
        )
        if not scene.salient:
            continue
        rows, columns = np.nonzero((pixels(world, scene) != pixels(world, plain)).any(2))
        side = 64 * labels["stamp_size"] + 1
        assert np.ptp(rows) < side
        assert np.ptp(columns) < side
        down, across = (int(values.mean() > 32) for values in (rows, columns))
        assert labels["stamp_place"] == 2 * down + across
        seen.add(labels["stamp_place"])
    assert seen == {0, 1, 2, 3}
    assert world.schema()["labels.stamp_size"].kind == "float"
    with pytest.raises(InputError, match="such as overlay=0.5"):
        build("scenes", {"stamp": "anywhere"})
    with pytest.raises(InputError, match="stamp of scenes 'anywere'; did you mean 'anywhere'"):
        build("scenes", {"overlay": 0.5, "stamp": "anywere"})


@pytest.mark.parametrize("size", [32, 33, 64, 224])
def test_images_of_all_sizes_show_the_same(size):
    world = build("scenes", {"size": size, "styles": "all"})
    reference = build("scenes", {"size": 64, "styles": "all"})
    for index in range(3):
        scene = world.sample(0, index)
        assert scene == reference.sample(0, index)
        drawn = world.render(scene)
        assert drawn.image.size == (size, size)
        assert drawn.image.mode == "RGB"
        for mine, other in zip(drawn.boxes, reference.render(scene).boxes, strict=True):
            assert np.allclose(
                np.array(mine.xyxy) / size,
                np.array(other.xyxy) / 64,
                atol=2.2 / min(size, 64) + 0.01,
            )


def test_the_factor_table_is_that_of_the_facts():
    source = WorldSource(build("scenes", {"number": 3, "same": 0, "distractors": 1}), 10)
    for index, sample in enumerate(source):
        scene = source.world.sample(0, index)
        table_ = sample.arrays["factors"]
        assert table_.shape == (4, len(FACTORS))
        for thing in scene.things:
            row = dict(zip(FACTORS, table_[thing.items[0].id].tolist(), strict=True))
            assert list(PLACES)[int(row["quadrant"])] == thing.place
            assert (list(COLOURS)[int(row["colour"])] if row["colour"] >= 0 else "") == thing.colour
            assert list(TEXTURES)[int(row["texture"])] == thing.texture
            assert bool(row["described"]) == thing.described
            assert row["depth"] == pytest.approx(thing.items[0].depth)
            assert (row["object"] < 0) == thing.foreign


def test_nothing_is_drawn_before_it_is_asked_for(monkeypatch):
    source = WorldSource(build("scenes", {"edits": "all"}), 3)
    calls = Counter()
    original = Scenes.render

    def counted(self, facts):
        calls["draw"] += 1
        return original(self, facts)

    monkeypatch.setattr(Scenes, "render", counted)
    sample = source[1]
    assert (len(sample.boxes), sorted(sample.arrays), sorted(sample.masks)) == (
        len(source.world.sample(0, 1).items),
        ["depth", "factors"],
        ["class", "coarse", "instance"],
    )
    assert not calls
    for _ in range(2):
        (
            sample.images["main"].decode(),
            sample.masks["class"].decode(),
            sample.arrays["depth"],
            sample.boxes[0],
        )
    assert calls["draw"] == 1


def test_decoded_images_may_be_changed():
    sample = WorldSource(build("scenes"), 1)[0]
    sample.images["main"].decode().thumbnail((8, 8))
    assert sample.images["main"].decode().size == (64, 64)


def test_the_images_of_the_docs_are_those_that_are_drawn():
    """docs/worlds/*.webp, which are lossy, by tools/draw_scenes.py."""
    root = Path(__file__).parents[3]
    spec = importlib.util.spec_from_file_location("draw_scenes", root / "tools" / "draw_scenes.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, draw in script.SHEETS.items():
        stored, drawn = (
            array(Image.open(root / "docs" / "worlds" / f"{name}.webp").convert("RGB")),
            array(draw()),
        )
        assert stored.shape == drawn.shape
        assert np.abs(stored - drawn).mean() < 6, f"{name}: run python tools/draw_scenes.py"


def test_more_than_255_classes_have_no_class_mask():
    source = WorldSource(build("scenes", {"objects": "all"}), 1)
    assert "masks.class" not in source.schema()
    assert sorted(source[0].masks) == ["coarse", "instance"]


def test_a_thing_too_thin_to_cover_a_pixel_by_half_is_drawn():
    source = WorldSource(
        build("scenes", {"number": 1, "size": 32, "distractors": 2}), 1, seed=100, start=4190
    )
    net = source.world.sample(100, 4190).things[2]
    assert net.concept == "goal net"
    assert source[0].images["main"].decode().size == (32, 32)
    assert source[0].boxes[2].xyxy == (0, 0, 0, 0)  # nobody sees it
