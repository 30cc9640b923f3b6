"""Readers of clips: files, folders of frames, tables, and the published lists of MSR-VTT and WebVid."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.data.helpers import animation, greys, video

from diptych.data import video as videos
from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.data.sources.python import source_of
from diptych.errors import InputError


def levels(sample):
    return [round(np.asarray(frame).mean(), -1) for frame in sample.images["frames"].frames()]


def put(root, name, *values):
    """A clip of greys as a file, or as a folder of frames."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4":
        path.write_bytes(video(greys(*values)))
    elif path.suffix == ".gif":
        path.write_bytes(animation(greys(*values)))
    else:
        path.mkdir()
        for at, image in enumerate(greys(*values)):
            image.save(path / f"frame_{at}.png")
    return path


RAMP = tuple(range(10, 250, 20))  # 12 frames, so that frame_10 follows frame_9


def test_a_folder_of_clips_has_classes_and_captions_as_one_of_images_has(tmp_path):
    put(tmp_path, "up/a.mp4", *RAMP)
    put(tmp_path, "up/v1.5", *RAMP)
    put(tmp_path, "down/b.gif", *RAMP[::-1])
    (tmp_path / "up" / "v1.5.txt").write_text("it grows lighter\n")
    (tmp_path / "down" / "b.json").write_text(json.dumps({"caption": "it grows darker"}))
    source = open_source(f"{tmp_path}:frames=4")
    assert list(source.keys()) == ["down/b.gif", "up/a.mp4", "up/v1.5"]
    assert source.schema()["labels.class"].classes == ("down", "up")
    assert source.labels("class").tolist() == [0, 1, 1]
    assert [sample.captions() for sample in source] == [
        ["it grows darker"],
        [],
        ["it grows lighter"],
    ]
    assert levels(source[2]) == [30, 90, 150, 210]
    assert levels(source[1]) == pytest.approx([30, 90, 150, 210], abs=10)
    assert levels(source[0]) == [210, 150, 90, 30]
    assert np.asarray(source[2].images["main"].decode()).max() == 150
    assert source.damage == {}
    [alone] = open_source(f"{tmp_path}/up/v1.5:frames=2")
    assert levels(alone) == [70, 190]


def test_without_frames_images_are_images_and_videos_are_read_where_they_are_alone(tmp_path):
    put(tmp_path, "a.mp4", 100, 100)
    assert len(open_source(str(tmp_path))[0].images["frames"].frames()) == 8
    put(tmp_path, "b.gif", 100, 200)
    [still] = open_source(str(tmp_path))
    assert still.key == "b.gif"
    assert set(still.images) == {"main"}
    assert len(open_source(f"{tmp_path}:frames=2")) == 2


def test_one_file_is_a_source_of_one_clip(tmp_path):
    path = put(tmp_path, "b.gif", 10, 90, 200)
    [sample] = open_source(f"{path}:frames=3")
    assert (sample.key, levels(sample)) == ("b.gif", [10, 90, 200])
    with pytest.raises(InputError, match="give 1 to 256"):
        open_source(f"{path}:frames=0")
    with pytest.raises(InputError, match="no such file"):
        open_source(str(tmp_path / "none.mp4"))


def test_what_cannot_be_read_is_damage_and_the_rest_stays_readable(tmp_path):
    cut = put(tmp_path, "a/cut.mp4", *RAMP)
    cut.write_bytes(cut.read_bytes()[:-100])
    put(tmp_path, "a/odd", 1, 2)
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "odd" / "frame_2.png")
    put(tmp_path, "a/whole", 1, 2)
    source = open_source(f"{tmp_path}:frames=3")
    reasons = {}
    for sample in source:
        try:
            levels(sample)
        except BadSample as error:
            reasons[sample.key] = error.reason
    assert reasons == {"a/cut.mp4": "truncated", "a/odd": "frame-sizes"}
    for path in (tmp_path / "a" / "whole").iterdir():
        path.unlink()
    with pytest.raises(BadSample, match="no-frames"):
        levels(source[2])


def test_a_folder_of_videos_without_pyav_is_refused_when_it_is_opened(tmp_path, monkeypatch):
    put(tmp_path, "a.mp4", 100, 100)
    monkeypatch.setattr(videos, "find_spec", lambda name: None)
    for spec in (tmp_path, tmp_path / "a.mp4"):
        with pytest.raises(InputError, match=r"pip install 'diptych\[video\]'"):
            open_source(str(spec))


def test_tables_and_python_name_clips_too(tmp_path):
    put(tmp_path, "a.mp4", 100, 100)
    (tmp_path / "t.csv").write_text("video,caption\na.mp4,grey\n")
    [sample] = open_source(f"{tmp_path}/t.csv:frames=2")
    assert (levels(sample), sample.captions()) == ([100, 100], ["grey"])
    array = np.stack([np.asarray(frame) for frame in greys(10, 20)])
    [sample] = source = source_of([(array, "grey")])
    assert levels(sample) == [10, 20]
    assert "images.frames" in source.schema()


MSR_VTT = {
    "info": {"version": "1.0", "year": "2016"},
    "videos": [
        {"category": 9, "url": "https://www.youtube.com/watch?v=9lZi22qLlEo", "video_id": "video0",
         "start time": 137.72, "end time": 149.44, "split": "train", "id": 0},
        {"category": 0, "url": "https://www.youtube.com/watch?v=w4JM08PDEng", "video_id": "video1",
         "start time": 184.33, "end time": 199.32, "split": "validate", "id": 1},
    ],
    "sentences": [
        {"caption": "a car is shown", "video_id": "video0", "sen_id": 0},
        {"caption": "a person sings", "video_id": "video1", "sen_id": 1},
        {"caption": "a vehicle drives by", "video_id": "video0", "sen_id": 2},
    ],
}  # fmt: skip


def test_msr_vtt_has_its_sentences_categories_and_splits(tmp_path):
    for name in ("video0", "video1"):
        put(tmp_path, f"TrainValVideo/{name}.mp4", 100, 100)
    path = tmp_path / "train_val_videodatainfo.json"
    path.write_text(json.dumps(MSR_VTT))
    (tmp_path / "category.txt").write_text("music\t0\npeople\t1\n")
    source = open_source(str(path))
    assert list(source.keys()) == ["video0.mp4", "video1.mp4"]
    assert source[0].captions() == ["a car is shown", "a vehicle drives by"]
    assert source.labels("category").tolist() == [9, 0]
    assert source.schema()["labels.category"].classes[0] == "music"
    assert levels(source[1]) == [100] * 8
    [only] = open_source(f"{path}:split=validate:frames=2")
    assert (only.key, len(levels(only))) == ("video1.mp4", 2)
    listed = tmp_path / "MSRVTT_JSFUSION_test.csv"
    listed.write_text("key,vid_key,video_id,sentence\nret0,msr0,video0,a person parks a car\n")
    [only] = open_source(f"{path}:ids={listed}")
    assert (only.key, only.captions()) == ("video0.mp4", ["a person parks a car"])
    with pytest.raises(InputError, match=":images=FOLDER"):
        open_source(f"{path}:images={tmp_path}/none")
    path.write_text(json.dumps({**MSR_VTT, "videos": MSR_VTT["videos"][1:]}))
    with pytest.raises(InputError, match="lacks 'video0'"):
        open_source(str(path))


def test_webvid_names_a_video_by_its_folder_and_number(tmp_path):
    path = tmp_path / "results_2M_val.csv"
    path.write_text(
        "videoid,contentUrl,duration,page_dir,name\n"
        '31383748,https://ak.picdn.net/a.mp4,PT00H00M20S,006001_006050,"Cloudy moscow, kremlin"\n'
        "1057949419,https://ak.picdn.net/b.mp4,PT00H00M11S,006001_006050,Sunset over sea\n"
        ",,,,\n"
    )
    put(tmp_path, "videos/006001_006050/1057949419.mp4", 100, 100)
    source = open_source(f"{path}:frames=2")
    assert list(source.keys()) == ["31383748", "1057949419"]
    assert source[0].captions() == ["Cloudy moscow, kremlin"]
    assert levels(source[1]) == [100, 100]
    with pytest.raises(BadSample, match="missing"):
        levels(source[0])
