"""Satellite tiles of cities in the published layout: captions in lists of lists, indicators by place."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.data.sources.city_tiles import place_of
from diptych.errors import InputError

PLACES = [(12677, 4730), (12672, 4745), (12673, 4745)]


def name(place, city="Beijing"):
    return f"{city}/16_{place[0]}_{place[1]}_s.jpg"


@pytest.fixture
def release(tmp_path):
    """`release(lists, csv)` writes data/captions, data/images and data/downstream_task."""

    def write(lists=None, csv=None, places=PLACES, city="Beijing"):
        data = tmp_path / "data"
        for folder in ("captions", f"images/{city}", "downstream_task"):
            (data / folder).mkdir(parents=True, exist_ok=True)
        for at, place in enumerate(places):
            Image.new("RGB", (4, 4), (at,) * 3).save(data / "images" / name(place, city))
        if lists is None:
            lists = [
                [{"caption": f"tile {at}", "image": name(each, city)}]
                for at, each in enumerate(places)
            ]
        (data / "captions" / f"{city}_captions.json").write_text(json.dumps(lists))
        if csv is None:
            csv = "Coordinate,CO2,SO2,district\n" + "\n".join(
                f'"({x}, {y})",{at}.5,{"" if at == 1 else at},east'
                for at, (x, y) in enumerate(places)
            )
        (data / "downstream_task" / f"{city}.csv").write_text(csv)
        return data

    return write


def captions(data, options="", city="Beijing"):
    return open_source(f"{data}/captions/{city}_captions.json{options}")


def test_captions_of_one_image_are_one_sample_wherever_they_stand(release):
    one, two = name(PLACES[0]), name(PLACES[1])
    first = [
        {"caption": "a large field", "image": one},
        {"caption": "several cars ", "image": one},
        {"caption": "a lake", "image": two},
    ]
    source = captions(
        release([first, [{"caption": "a large field", "image": one}, {"image": two}]])
    )
    assert isinstance(source, Source)
    assert list(source.keys()) == [one, two]
    assert source[0].captions() == ["a large field", "several cars"]
    assert source[-1].captions() == ["a lake"]
    assert source[0].images["main"].decode().size == (4, 4)
    assert list(source.damage.values()) == ["columns"]
    assert source.schema()["labels.city"].classes == ("Beijing",)
    assert source[1].arrays["place"].tolist() == [12672, 4745]


def test_indicators_are_found_by_place(release):
    data = release()
    source = captions(data, f":indicators={data}/downstream_task/Beijing.csv")
    assert [source[at].labels["CO2"] for at in range(3)] == [0.5, 1.5, 2.5]
    assert math.isnan(source[1].labels["SO2"])
    np.testing.assert_array_equal(source.labels("CO2"), [0.5, 1.5, 2.5])
    assert source.schema()["labels.SO2"].kind == "float"
    assert "labels.district" not in source.schema()  # it has no number


def test_a_table_by_itself_gives_tiles_without_captions(release):
    data = release()
    source = open_source(f"{data}/downstream_task/Beijing.csv")
    assert [sample.key for sample in source] == [
        "16_12677_4730_s.jpg",
        *(name(p)[8:] for p in PLACES[1:]),
    ]
    assert "texts.caption" not in source.schema()
    assert source[2].labels["SO2"] == 2
    assert source[0].images["main"].decode().getpixel((0, 0)) == (0, 0, 0)
    (data / "images" / name(PLACES[1])).unlink()
    left = open_source(f"{data}/downstream_task/Beijing.csv:images={data}/images/Beijing")
    assert len(left) == 2
    assert list(left.damage.values()) == ["no-image"]


def test_several_tables_and_cities(release):
    data = release()
    release(places=[(9, 9)], city="Wuhan", csv='Coordinate,CO2,gdp\n"(9, 9)",7,8\n"(9, 9)",7,8')
    source = open_source(
        f"{data}/captions/Beijing_captions.json,{data}/captions/Wuhan_captions.json"
    )
    assert source.schema()["labels.city"].classes == ("Beijing", "Wuhan")
    assert source.labels("city").tolist() == [0, 0, 0, 1]
    both = f":indicators={data}/downstream_task/Wuhan.csv+{data}/downstream_task/Beijing.csv"
    source = captions(data, both, "Wuhan")
    assert source[0].labels["CO2"] == 7
    assert {"labels.CO2", "labels.gdp", "labels.SO2"} <= source.schema().keys()


GRID = [(x, y) for x in range(100, 120) for y in range(200, 210)]


def test_blocks_stay_whole_and_parts_share_no_tile(release):
    data = release(places=GRID)
    parts = {part: captions(data, f":block=2:split={part}") for part in ("train", "val", "test")}
    keys = [sample.key for part in parts.values() for sample in part]
    assert sorted(keys) == sorted(captions(data).keys())
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 160,
        "val": 20,
        "test": 20,
    }
    blocks = {name: set(part.labels("block").tolist()) for name, part in parts.items()}
    assert not blocks["train"] & blocks["test"]
    assert not blocks["val"] & (blocks["train"] | blocks["test"])
    whole = captions(data, ":block=2").labels("block")
    assert set(np.bincount(whole)) == {4}
    other = captions(data, ":block=2:split=test:shuffle=1")
    assert list(other.keys()) != list(parts["test"].keys())


def test_single_tiles_leak_their_neighbours(release):
    data = release(places=GRID)
    train, test = (captions(data, f":block=5:by=tiles:split={part}") for part in ("train", "test"))
    assert len(test) == 20
    assert set(test.labels("block").tolist()) <= set(train.labels("block").tolist())


@settings(max_examples=25)
@given(st.integers(0, 20), st.data())
def test_the_place_in_a_name(zoom, data):
    x, y = (data.draw(st.integers(0, 2**zoom - 1)) for _ in range(2))
    assert place_of(f"a/b/{zoom}_{x}_{y}_s.jpg") == (x, y)
    assert place_of(f"{zoom}_{x}_{y}.png") == (x, y)
    assert place_of(f"{zoom}_{x + 2**zoom}_{y}.png") is None


def row(x="(1, 2)", co2="3"):
    return f'Coordinate,CO2\n"{x}",{co2}'


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        (row("116.4, 39.9"), r"row 1: Coordinate is '116.4, 39.9', .* not degrees"),
        (row(""), "row 1: Coordinate is ''"),
        ('Coordinate,CO2\n"(1, 2)",3\n"(3, 4)",n/a', "row 2: CO2 is no number"),
        (
            'Coordinate,CO2\n"(1, 2)",3\n"(1, 2)",4',
            r"tile \(1, 2\) has two values of CO2; keep one",
        ),
        (row(), "no row is of a tile of"),
        ("Coordinate,CO2\n", "no rows"),
    ],
)
def test_tables_that_do_not_fit(release, csv, message):
    data = release(csv=csv)
    with pytest.raises(InputError, match=message):
        captions(data, f":indicators={data}/downstream_task/Beijing.csv")


def test_what_is_refused(release):
    data = release([[{"caption": "a field", "image": "Beijing/centre.jpg"}]])
    Image.new("RGB", (4, 4)).save(data / "images" / "Beijing" / "centre.jpg")
    with pytest.raises(
        InputError, match=r"Beijing/centre.jpg has no coordinates .* name it ZOOM_X_Y_s.jpg"
    ):
        captions(data)
    data = release()
    for options, message in (
        (":split=test", "has 2 blocks, of which none is in the part test; lower block"),
        (":split=tset", "did you mean 'test'"),
        (":indicators=gone.csv", "gone.csv: no such file of indicators"),
        (f":images={data}/captions", "is not in .*captions; name the folder with :images"),
    ):
        with pytest.raises(InputError, match=message):
            captions(data, options)
    with pytest.raises(InputError, match="holds indicators itself"):
        open_source(f"{data}/downstream_task/Beijing.csv:indicators=x.csv")
    for place in PLACES:
        (data / "images" / name(place)).unlink()
    with pytest.raises(InputError, match="ZOOM_12677_4730_s.jpg, is not near it"):
        open_source(f"{data}/downstream_task/Beijing.csv")


def test_a_flat_list_is_another_format(release):
    data = release([{"caption": "a field", "image": "Beijing/centre.jpg"}])
    Image.new("RGB", (4, 4)).save(data / "images" / "Beijing" / "centre.jpg")
    assert captions(data)[0].captions() == ["a field"]
