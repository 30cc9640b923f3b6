"""`filtered:FILE`: what a filter kept, with the texts that were dropped gone, and refusal of what
is no such list."""

import numpy as np
import pytest

from diptych.data.shards import write_shards
from diptych.data.sources import filtered as kept
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.pretrain.align.filter import REASONS, Rules, filtered

SPEC = "scenes:size=32:number=1:drop=0.4:count=1200:texts=caption:noise=junk=0.2+boilerplate=0.3"
RULES = Rules(shorter_side=None, vocabulary=900)
TOLD = "scenes:size=32:count=60:texts=caption+paraphrase"


@pytest.fixture(scope="module")
def found():
    return filtered(open_source(SPEC), RULES)


@pytest.fixture
def listed(tmp_path, found):
    path = tmp_path / "kept.npz"
    kept.write(path, SPEC, open_source(SPEC), "caption", found.samples, found.texts, found.reasons)
    return path


def test_it_reads_the_pairs_that_were_kept_and_no_others(listed, found):
    source, all_of_it = open_source(f"filtered:{listed}"), open_source(SPEC)
    rows = found.samples[found.reasons < 0]
    assert 0 < len(source) == len(rows) < 1200
    assert source.keys() == [all_of_it.keys()[row] for row in rows]
    for at, row in enumerate(rows):
        one, other = source[at], all_of_it[int(row)]
        assert (one.key, one.texts, one.labels) == (other.key, list(other.texts), other.labels)
        assert one.images["main"].read() == other.images["main"].read()
    assert source.schema() == all_of_it.schema()


def test_noise_goes_and_clean_pairs_stay(found):
    noise = np.array([sample.labels["noise"] for sample in open_source(SPEC)])
    names = open_source(SPEC).schema()["labels.noise"].classes
    reasons = np.array([REASONS[at] if at >= 0 else "" for at in found.reasons])
    assert set(reasons[noise == names.index("junk")]) == {"rare"}
    assert set(reasons[noise == names.index("boilerplate")]) == {"shared-text"}
    assert (reasons[noise == names.index("clean")] == "").mean() > 0.5


def test_of_several_texts_the_dropped_ones_go_and_other_roles_stay(tmp_path):
    source = open_source(TOLD)
    path = tmp_path / "kept.npz"
    samples, texts = np.repeat(np.arange(60), 5), np.tile(np.arange(5), 60)
    reasons = np.where((texts == 1) | (samples == 7) | ((samples == 2) & (texts > 0)), 5, -1)
    kept.write(path, TOLD, source, "paraphrase", samples, texts, reasons)
    back = open_source(f"filtered:{path}")
    assert len(back) == 59
    own = source[0].captions("paraphrase")
    assert back[0].captions("paraphrase") == [own[0], *own[2:5]]
    assert back[2].captions("paraphrase") == source[2].captions("paraphrase")[:1]
    assert back[7].key == source[8].key
    assert back[0].captions() == source[0].captions()


def test_labels_are_those_of_what_is_left(tmp_path):
    spec = "glyphs:split=val:design=noto"
    source, path = open_source(spec), tmp_path / "kept.npz"
    rows = np.arange(len(source))
    zeros = np.zeros(len(source), np.int32)
    kept.write(path, spec, source, "caption", rows, zeros, np.where(rows % 3, 0, -1))
    back = open_source(f"filtered:{path}")
    assert np.array_equal(back.labels("concept"), source.labels("concept")[::3])


def test_a_source_that_moved_is_named_and_one_that_changed_is_refused(tmp_path, listed):
    folder = tmp_path / "moved"
    write_shards(open_source(SPEC), folder)
    moved, there = (
        open_source(f"filtered:{listed}:source={folder}/*.tar"),
        open_source(f"filtered:{listed}"),
    )
    assert moved.keys() == there.keys()
    assert moved[3].captions() == there[3].captions()
    with pytest.raises(InputError, match="other samples than are there now"):
        open_source(f"filtered:{listed}:source=glyphs")


def test_what_is_no_list_is_refused(tmp_path):
    with pytest.raises(InputError, match="diptych data filter SOURCE --out"):
        open_source(f"filtered:{tmp_path}/missing.npz")
    for name, data in (("empty", b""), ("text", b"not a list"), ("zip", b"PK\x05\x06" + bytes(18))):
        path = tmp_path / f"{name}.npz"
        path.write_bytes(data)
        with pytest.raises(InputError, match="is no list of what was kept"):
            open_source(f"filtered:{path}")
    np.savez(tmp_path / "pickled.npz", head=np.array({"source": 1}, dtype=object))
    with pytest.raises(InputError, match="is no list of what was kept"):
        open_source(f"filtered:{tmp_path}/pickled.npz")


def test_a_list_that_keeps_nothing_is_refused(tmp_path):
    path = tmp_path / "kept.npz"
    rows = np.arange(60)
    kept.write(path, TOLD, open_source(TOLD), "caption", rows, rows * 0, rows * 0)
    with pytest.raises(InputError, match="nothing was kept"):
        open_source(f"filtered:{path}")
