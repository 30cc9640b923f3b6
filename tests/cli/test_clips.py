"""Clips on the command line: a folder of files and of frames is embedded, searched, named and shown."""

import json

import pytest
from tests.data.helpers import video

from diptych.data.sources import open_source


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Six films: as videos, as animations, as folders of frames."""
    root = tmp_path_factory.mktemp("clips")
    for at, sample in enumerate(open_source("scenes:film=4:count=6:number=1")):
        frames = sample.images["frames"].frames()
        folder = root / ("a", "b")[at % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{at}.txt").write_text(sample.captions()[0])
        if at < 2:
            (folder / f"{at}.mp4").write_bytes(video(frames))
        elif at < 4:
            frames[0].save(folder / f"{at}.gif", save_all=True, append_images=frames[1:])
        else:
            (folder / str(at)).mkdir()
            for number, frame in enumerate(frames):
                frame.save(folder / str(at) / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def emb(clips):
    from diptych.cli import main

    out = clips.with_name("emb")
    assert main(["embed", "tiny", f"{clips}:frames=4", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize(
    ("name", "key"), [("a/2.gif", "a/2.gif"), ("b/1.mp4", "b/1.mp4"), ("a/4", "a/4")]
)
def test_a_clip_finds_itself(diptych, clips, emb, name, key):
    found = diptych(
        "search", emb, "--image", clips / name, "--frames", "4", "-k", "1", "--json"
    ).out
    [hit] = json.loads(found)
    assert hit["key"] == key
    assert hit["score"] == pytest.approx(1, abs=1e-5)
    assert hit["caption"] == (clips / name).with_suffix(".txt").read_text()


def test_clips_are_named_and_shown(diptych, clips, tmp_path):
    said = json.loads(diptych("classify", "tiny", f"{clips}:frames=4", "--json").out)
    assert [each["key"] for each in said["images"]] == [
        "a/0.mp4", "a/2.gif", "a/4", "b/1.mp4", "b/3.gif", "b/5",
    ]  # fmt: skip
    assert said["images"][0]["path"].endswith("a/0.mp4")
    one = json.loads(diptych("classify", "tiny", clips / "a/0.mp4", "--names", "a,b", "--json").out)
    assert len(one["images"]) == 1
    diptych("view", f"{clips}:frames=4", "--out", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count('alt="frames"') == 6
