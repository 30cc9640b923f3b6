"""The script that rebuilds the shipped drawings: its rules give the shipped records (its images
need the network)."""

import gzip
import importlib.util
import json
from importlib.resources import files
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "make_glyphs.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_glyphs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shipped():
    text = files("diptych.data").joinpath("glyphs", "concepts.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_the_split_rule_gives_the_shipped_split(script, shipped):
    assert all(script.split(concept["hexcode"]) == concept["split"] for concept in shipped)


def test_a_pack_of_three_entries_follows_the_rules(script):
    groups = {"groups": {"0": "g"}, "subgroups": {"1": "s"}}
    entry = {
        "label": "red apple",
        "hexcode": "1F34E",
        "emoji": "🍎",
        "tags": ["fruit"],
        "group": 0,
        "subgroup": 1,
    }
    data = [
        {**entry, "version": 1},
        {**entry, "hexcode": "1FAE9", "version": 16},  # too new
        {**entry, "hexcode": "1F1E6", "version": 1},  # twemoji lacks it
        {**entry, "hexcode": "2764-FE0F", "label": "red heart", "version": 1},
    ]
    chars = {
        "noto": {"1f34e": "red-apple", "1fae9": "bags", "1f1e6": "a", "2764": "red-heart"},
        "twemoji": {"1f34e": "red-apple", "1fae9": "bags", "2764": "heart"},
        "fluent-flat": {},
    }
    icons = {
        "noto": {"icons": {"red-apple": {}, "red-heart": {}}},
        "twemoji": {"icons": {"red-apple": {}}, "aliases": {"heart": {}}},
        "fluent-flat": {"icons": {"red-apple": {}}},
        "emojione": {"icons": {}, "aliases": {"heart": {}}},
    }
    apple, heart = script.concepts(data, groups, chars, icons)
    assert (apple["index"], apple["name"], apple["designs"]) == (
        0,
        "red apple",
        ["noto", "twemoji", "fluent-flat"],
    )
    assert (heart["index"], heart["hexcode"], heart["designs"]) == (
        1,
        "2764",
        ["noto", "twemoji", "emojione"],
    )
    assert heart["icons"]["emojione"] == "heart"


def test_names_are_found_by_the_code_of_a_concept(script):
    records = [{"index": 0, "hexcode": "2764"}, {"index": 1, "hexcode": "1f34e"}]
    german = [
        {"hexcode": "1F34E", "label": "roter Apfel"},
        {"hexcode": "2764-FE0F", "label": "rotes Herz"},
    ]
    lines = script.names(records, {"de": german}).splitlines()
    assert [json.loads(line)["names"]["de"] for line in lines] == ["rotes Herz", "roter Apfel"]


def test_the_shipped_names_are_in_the_languages_of_the_script(script, shipped):
    data = files("diptych.data").joinpath("glyphs", "names.jsonl.gz").read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(data).decode().splitlines()]
    assert [row["index"] for row in rows] == [concept["index"] for concept in shipped]
    assert all(tuple(row["names"]) == script.LANGUAGES for row in rows)


def test_every_package_is_pinned_by_its_published_hash(script):
    assert set(script.DESIGNS.values()) < set(script.PACKAGES)
    assert all(len(integrity) == 88 for _, integrity in script.PACKAGES.values())
