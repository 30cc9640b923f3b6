"""Curation: the nearest of a pool to queries, without what is tested on."""

import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.data.sources import open_source
from diptych.embeddings.curate import REASONS, curate
from diptych.errors import InputError
from diptych.methods.store import load

POOL = "scenes:count=40:number=1"


def test_kept_are_the_k_nearest_of_each_query_that_are_not_tested_on():
    tiny = load("tiny")
    pool, tests = open_source(POOL), open_source("scenes:count=4:number=1:start=6")
    queries = [
        open_source("scenes:count=3:number=1:seed=5"),
        open_source("scenes:count=2:number=1:seed=8"),
    ]
    found = curate(pool, tiny, queries, k=3, drop_near=[tests])
    vectors = tiny.embed_images([sample.images["main"] for sample in pool])
    expected = set()
    for query in (sample for source in queries for sample in source):
        cosines = (vectors @ tiny.embed_images(query.images["main"])[0]).tolist()
        order = sorted(range(40), key=lambda at: -cosines[at])
        expected.update([at for at in order if at not in (6, 7, 8, 9)][:3])
    assert set(np.flatnonzero(found == -1).tolist()) == expected
    assert np.flatnonzero(found == REASONS.index("test")).tolist() == [6, 7, 8, 9]
    with pytest.raises(InputError, match="all images of .* look like test images"):
        curate(tests, tiny, queries, drop_near=[pool])


def test_the_list_is_read_in_place_of_the_pool_with_images_that_have_no_text(tmp_path, capsys):
    folder = tmp_path / "pool"
    folder.mkdir()
    for at in range(6):
        colour = (40 * at, 20, 250 - 40 * at)
        Image.new("RGB", (32, 32), colour).save(folder / f"{at}.png")
    (folder / "3.txt").write_text("a plain colour")
    (folder / "bad.png").write_bytes(b"none")
    (tmp_path / "queries").mkdir()
    Image.new("RGB", (32, 32), (120, 20, 130)).save(tmp_path / "queries" / "q.png")
    out = tmp_path / "kept.npz"
    line = [
        "data",
        "curate",
        str(folder),
        "--queries",
        str(tmp_path / "queries"),
        "--model",
        "tiny",
    ]
    assert main([*line, "--k", "2", "--out", str(out)]) == 0
    table = capsys.readouterr().out
    assert "filtered:" in table
    kept = open_source(f"filtered:{out}")
    assert len(kept) == 2
    assert sorted(sample.captions("caption") for sample in kept) == [[], ["a plain colour"]]
