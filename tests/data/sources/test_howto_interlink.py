"""Howto-Interlink7M, on files of its true form: a table, and tars of films."""

import csv
import io
import json
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.helpers import animation, encoded, greys, video

from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.data.sources.howto_interlink import span_of, told_clips
from diptych.errors import InputError

LEVELS = range(20, 240, 20)  # of frames of a tenth of a second
CLIPS = [
    {"clip": "0:00:00 - 0:00:00.500", "caption": "The film begins."},
    {"clip": "0:00:00.500 - 0:00:01.100", "caption": "It gets brighter."},
]


def table(path, rows, columns=("video", "clips")):
    with path.open("w", encoding="utf-8", newline="") as file:
        written = csv.writer(file, delimiter="\t", lineterminator="\n")
        written.writerow(columns)
        written.writerows(rows)
    return str(path)


def levels(image):
    return [int(round(np.asarray(frame).mean() / 20) * 20) for frame in image.frames()]


def told(sample):
    return [(text.text, text.attrs["image"]) for text in sample.texts]


def folder_of_frames(root):
    root.mkdir()
    for number, frame in enumerate(greys(*LEVELS)):
        (root / f"{number}.png").write_bytes(encoded(frame, "PNG"))


@pytest.mark.parametrize("kind", ["video", "animation", "folder"])
def test_a_row_is_a_document_of_parts_of_its_film(tmp_path, kind):
    (tmp_path / "videos").mkdir()
    name = {"video": "-uT3ZpXZ.mp4", "animation": "a.gif", "folder": "frames"}[kind]
    if kind == "video":
        (tmp_path / "videos" / name).write_bytes(video(greys(*LEVELS)))
    elif kind == "animation":
        (tmp_path / "videos" / name).write_bytes(animation(greys(*LEVELS), "GIF", duration=100))
    else:
        folder_of_frames(tmp_path / "videos" / name)
    rows = [
        [name, json.dumps(CLIPS)],
        ["gone.mp4", json.dumps(CLIPS)],
        ["../a.mp4", json.dumps(CLIPS)],
        [name, "[{'clip': single quotes}]"],
        [name, json.dumps([{"clip": "0:00:09 - 0:00:02", "caption": "backwards"}])],
    ]
    path = table(tmp_path / "Howto-Interlink7M_subset_w_all_clips_val.tsv", rows)
    source = open_source(f"{path}:frames=3")
    assert len(source) == 2
    assert sorted(source.damage.values()) == ["columns"] * 3
    sample = source[0]
    assert told(sample) == [("The film begins.", "main"), ("It gets brighter.", "page2")]
    assert levels(sample.images["main"]) == [20, 60, 100]
    assert levels(sample.images["page2"]) == [140, 180, 220]
    assert np.asarray(sample.images["page2"].decode()).mean() == pytest.approx(180, abs=8)
    with pytest.raises(BadSample, match="no-image"):
        source[1]
    assert list(source.schema()) == ["images.main", "images.page2", "texts.document"]


def test_films_of_addresses_and_of_whole_paths_are_found_by_their_names(tmp_path):
    (tmp_path / "a.gif").write_bytes(animation(greys(*LEVELS), "GIF", duration=100))
    rows = [[name, json.dumps(CLIPS)] for name in ("/data/howto100m/a.gif", "http://host/x/a.gif")]
    source = open_source(table(tmp_path / "clips.tsv", rows, ("path", "clips")))
    assert [len(sample.images) for sample in source] == [2, 2]
    with pytest.raises(InputError, match="unknown option"):
        open_source(f"{tmp_path}/clips.tsv:speed=5")
    with pytest.raises(InputError, match="frames=0"):
        open_source(f"{tmp_path}/clips.tsv:frames=0")


def test_tars_hold_a_film_and_its_clips(tmp_path):
    slow = [
        {"clip": "0:00:00 - 0:00:03", "caption": "The film begins."},
        {"clip": "0:00:03 - 0:00:05", "caption": "It gets brighter."},
    ]
    members = {
        "a.mp4": video(greys(*LEVELS)),
        "a.json": json.dumps({"video_name": "a", "clips": json.dumps(slow)}).encode(),
        "b.json": json.dumps({"clips": json.dumps(slow)}).encode(),
        "c.mp4": b"",
        "c.json": b"{}",
    }
    with tarfile.open(tmp_path / "000.tar", "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    source = open_source(f"howto_interlink:{tmp_path}/000.tar:speed=5:frames=2")
    sample = source[0]
    assert told(sample) == [("The film begins.", "main"), ("It gets brighter.", "page2")]
    assert levels(sample.images["main"]) == [40, 100]  # of the first .6 seconds
    assert levels(sample.images["page2"]) == [160, 200]
    assert [_reason(source, at) for at in (1, 2)] == ["no-image", "columns"]
    with pytest.raises(InputError, match="leave out :images"):
        open_source(f"howto_interlink:{tmp_path}/000.tar:images=films")


def _reason(source, at):
    with pytest.raises(BadSample) as caught:
        source[at]
    return caught.value.reason


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text(max_size=6), lambda x: st.lists(x, max_size=3)
                    | st.dictionaries(st.sampled_from(["clip", "caption"]), x), max_leaves=6))  # fmt: skip
def test_any_clips_are_read_or_refused(value):
    for told_ in (value, json.dumps(value)):
        reason = "columns"
        try:
            assert told_clips(told_)
        except BadSample as bad:
            reason = bad.reason
        assert reason == "columns"


@given(st.integers(0, 10**7), st.integers(1, 10**6))
def test_times_are_read_as_they_are_written(start, length):
    from diptych.methods.fuse.cosmo.interleave import clock

    span = (start / 1000, (start + length) / 1000)
    assert span_of(" - ".join(map(clock, span))) == pytest.approx(span, abs=1e-6)
