"""`diptych link` and `diptych cluster`: from records of a world to tables, thresholds that are given
or chosen, and what does not fit."""

import csv
import json

import pytest
from tests.cli.helpers import TINY

from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.methods.store import load

NAMES = "names:size=32:singles=0.2:errors=0.1"
TEST = f"{NAMES}:split=test:count=24"
VAL = f"{NAMES}:split=val:count=24"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model of both stages with tiny towers."""
    from diptych.cli import main

    out = tmp_path_factory.mktemp("linked") / "run"
    words = ("train", "clippings", "--data", f"{NAMES}:count=32", *TINY, "--quiet", "--val", VAL)
    options = ("--method.nearest", "2", "--method.each", "2", "--method.weight", "0.25")
    more = ("--method.select", "true", "--out", str(out))
    assert main([*words, *options, *more]) == 0
    return out


def test_a_run_keeps_its_weight_and_tells_what_to_do_next(run, diptych):
    model = load(run)
    assert model.record_weight == 0.25
    source = open_source(TEST)
    images = [source[at].images["main"] for at in range(3)]
    texts = [source[at].captions()[0] for at in range(3)]
    default = model.embed_records(images, texts)
    assert default.equal(model.embed_records(images, texts, weight=0.25))
    log = (run / "metrics.jsonl").read_text("utf-8")
    assert "val/top1" in log
    assert '"event": "selected"' in log or '"selected"' in log


def test_queries_are_linked_and_the_table_is_written(run, diptych, tmp_path):
    out = tmp_path / "links.csv"
    called = diptych("link", run, TEST, VAL, "--out", out)
    assert called.code == 0, called
    assert "24 of 24 records are linked to 24" in called.out
    assert "holds all 24 rows" in called.err
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert set(rows[0]) == {"source_path", "target_path", "similarity"}
    assert rows[0]["target_path"] in list(open_source(TEST).keys())
    none = json.loads(diptych("link", run, TEST, VAL, "--threshold", 1, "--json").out)
    assert all(row["target_path"] is None for row in none["rows"])
    words = ("link", run, TEST, TEST, "--val", VAL, "--weight", 0.5, "--json")
    assert json.loads(diptych(*words).out)["weight"] == 0.5


def test_clusters_by_a_distance_and_by_a_validation(run, diptych, tmp_path):
    one = json.loads(diptych("cluster", run, TEST, "--distance", 2, "--json").out)
    assert {row["cluster"] for row in one["rows"]} == {0}
    words = ("cluster", run, TEST, "--val", VAL, "--weight", 0.5, "--out", tmp_path / "c.csv")
    tuned = json.loads(diptych(*words, "--json").out)
    found = evaluate(load(run), open_source(TEST), ["linkage"], val=open_source(VAL), weight=0.5)[
        "linkage"
    ]
    assert tuned["distance"] == found["cluster_distance"]
    assert 1 + max(row["cluster"] for row in tuned["rows"]) == found["clusters"]
    assert len((tmp_path / "c.csv").read_text("utf-8").splitlines()) == 25


def test_the_suite_by_its_name(run, diptych):
    words = ("evaluate", run, "--data", TEST, "--suite", "linkage", "--val", VAL, "--weight", 0.5)
    called = diptych(*words)
    assert called.code == 0, called
    assert "queries" in called.out
    assert "ari" in called.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("link",), "has no model"),
        (("link", "tiny"), "has no targets"),
        (("link", "tiny", TEST), "has no queries"),
        (("cluster", "tiny"), "has no records"),
        (("cluster", "tiny", TEST), "needs a distance"),
        (("cluster", "tiny", TEST, "--distance", 1, "--val", VAL), "one of them"),
        (("link", "tiny", TEST, TEST, "--threshold", 1, "--val", VAL), "leave one out"),
        (("link", "tiny", TEST, TEST, "--label", "entity"), "--label is of --val"),
        (("link", "tiny", TEST, TEST, "--out", "x.txt"), "does not end in .csv"),
        (("link", "tiny", TEST, TEST, "--out", "no/x.csv"), "there is no folder no"),
        (("link", "tiny-lm", TEST, TEST), "linking records needs a model with embed_images"),
        (("link", "tiny", TEST, TEST, "--weight", 2), "weight is 2"),
        (
            ("link", "tiny", TEST, TEST, "--threshold", 3),
            "--threshold is 3.0; it must be a number from -1 to 1",
        ),
        (
            ("cluster", "tiny", TEST, "--distance", -1),
            "--distance is -1.0; it must be a number from 0 to 2",
        ),
    ],
)
def test_what_does_not_fit_is_told(refused, words, message):
    assert message in refused(*words)
