"""COSMO's data set: films are cut at their cuts, told by a writer, and filtered by rules."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.helpers import animation, greys, photo, video

from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.fuse.cosmo.interleave import (
    FIELDS,
    Rules,
    fault,
    interleave,
)
from diptych.methods.fuse.cosmo.interleave.films import Cuts, clips_of, films_of, spans
from diptych.methods.fuse.cosmo.interleave.transcripts import parsed, read

FILMS = "scenes:film=4:count=7:number=1:size=32"


class Echo:
    """A writer that repeats what it is asked, with a number of its own."""

    name = "echo"

    def __init__(self, say=lambda question: f"text: {question.prompt}"):
        self.say = say
        self.asked = []

    def __call__(self, questions, attempt):
        self.asked += questions
        return [self.say(question) for question in questions]


def rows(path):
    head, *lines = path.read_text("utf-8").splitlines()
    assert head == "video\tclips"
    table = [line.split("\t") for line in lines]
    return [(name, json.loads(clips[1:-1].replace('""', '"'))) for name, clips in table]


# ---- films


def near(spans):
    return [tuple(round(float(time), 3) for time in span) for span in spans]


def test_consecutive_clips_make_a_film_that_is_cut_into_them_again(tmp_path):
    films = films_of(open_source(FILMS), tmp_path / "films", join=3)
    assert [film.name for film in films.films] == [f"train-0-00000{at}.png" for at in (0, 3, 6)]
    for film in films.films:
        found = clips_of(film.path, Cuts(min_seconds=0.2))
        assert near(found) == near(part.span for part in film.parts)
        assert [film.part(span).number for span in found] == [part.number for part in film.parts]
    frames = films.films[1].clip((0.4, 0.8), 4).frames()
    shown = open_source(FILMS)[4].images["frames"].frames()
    for one, other in zip(frames, shown, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("kind", ["mp4", "gif", "folder"])
def test_films_in_files_stay_where_they_are(tmp_path, kind):
    frames = [photo(32, 24, seed) for seed in (1, 1, 1, 1, 2, 2, 2, 2, 2)]
    path = tmp_path / f"film.{kind}"
    if kind == "mp4":
        path.write_bytes(video(frames))
    elif kind == "gif":
        path.write_bytes(animation(frames, "GIF", duration=100))
    else:
        path.mkdir()
        for number, frame in enumerate(frames):
            frame.save(path / f"{number}.png")
    films = films_of(open_source(f"{tmp_path}:frames=4"), tmp_path / "written")
    assert not (tmp_path / "written").exists()
    assert [film.name for film in films.films] == [path.name]
    assert near(clips_of(films.films[0].path, Cuts(min_seconds=0.1))) == [(0, 0.4), (0.4, 0.9)]


def test_a_camera_that_pans_cuts_nothing():
    cuts = Cuts()
    times = list(range(12))
    assert spans(times, [0.1] * 10, cuts) == [(0, 11)]
    changes = [0.1] * 10
    changes[4] = 0.4
    assert spans(times, changes, cuts) == [(0, 5), (5, 11)]
    changes[4] = 0.29  # not three times as much
    assert spans(times, changes, cuts) == [(0, 11)]


@given(st.lists(st.sampled_from([0.0, 0.01, 0.5]), max_size=30), st.floats(0.1, 5), st.floats(2, 9))
def test_clips_follow_each_other_and_have_no_forbidden_length(changes, shortest, times):
    cuts = Cuts(min_seconds=shortest, max_seconds=shortest * times)
    found = spans([at / 2 for at in range(len(changes) + 2)], changes, cuts)
    assert found[0][0] == 0
    assert found[-1][1] == (len(changes) + 1) / 2
    assert all(one[1] == other[0] for one, other in itertools.pairwise(found))
    lengths = [end - start for start, end in found]
    assert max(lengths) <= cuts.max_seconds + 1e-9
    assert min(lengths) >= min(shortest, found[-1][1]) - 1e-9


def test_sources_that_are_no_films_are_refused(tmp_path):
    with pytest.raises(InputError, match="no clips"):
        films_of(open_source("scenes:count=2"), tmp_path)
    (tmp_path / "a.gif").write_bytes(animation(greys(10, 200), "GIF", duration=100))
    with pytest.raises(InputError, match="two sources"):
        films_of(open_source(f"{tmp_path}/a.gif:frames=2,{FILMS}"), tmp_path / "films")
    with pytest.raises(InputError, match="of twice min_seconds"):
        Cuts(min_seconds=2, max_seconds=3)


# ---- transcripts

VTT = """WEBVTT
Kind: captions

NOTE a note

00:01.000 --> 00:02.500 align:start position:0%
add <00:01.200><c>the</c> flour &amp; salt

intro
00:00:02.500 --> 00:00:04.000
add the flour & salt
and stir
"""


def test_cues_of_webvtt_and_subrip():
    cues = parsed(VTT)
    assert [(cue.span, cue.text) for cue in cues] == [
        ((1.0, 2.5), "add the flour & salt"),
        ((2.5, 4.0), "and stir"),  # the line above rolled up
    ]
    assert parsed("7\n01:00:01,250 --> 01:00:02,000\n{\\an8}hello\n\n")[0].span == (3601.25, 3602)


def test_transcripts_that_say_nothing_are_refused(tmp_path):
    for data in (b"WEBVTT\n\nno cue", b"\xff\xfe\x00"):
        (tmp_path / "a.vtt").write_bytes(data)
        with pytest.raises(InputError, match=r"a\.vtt"):
            read(tmp_path / "a.vtt")


@given(st.text(max_size=80))
def test_any_text_is_a_transcript_or_has_no_cue(text):
    assert all(cue.text for cue in parsed(text))


# ---- the text


def test_the_writer_is_asked_clip_by_clip_with_what_it_wrote_before(tmp_path):
    writer = Echo(lambda question: f"clip {question.key[-1]} shows a thing")
    out = tmp_path / "d.tsv"
    prompt = "so far: {before} shows: {caption} there: {regions} said: {speech}"
    found = interleave(
        open_source(FILMS), out, writer, prompt=prompt, join=3, cuts=Cuts(min_seconds=0.2)
    )
    assert (found.films, found.clips, len(found.documents)) == (3, 7, 2)
    assert dict(found.dropped) == {"few clips": 1}
    third = next(q for q in writer.asked if q.key == "train-0-000003#3")
    sample = open_source(FILMS)[5]
    things = ", ".join(box.text for box in sample.boxes)
    assert third.prompt == (
        f"so far: clip 1 shows a thing clip 2 shows a thing shows: {sample.captions()[0]} "
        f"there: {things} said:"
    )
    name, clips = rows(out)[1]
    assert name == "train-0-000003.png"
    assert [clip["clip"] for clip in clips] == [
        "0:00:00.000 - 0:00:00.400", "0:00:00.400 - 0:00:00.800", "0:00:00.800 - 0:00:01.200",
    ]  # fmt: skip
    assert clips[2]["seen"] == sample.captions()[0]
    asked = len(writer.asked)
    interleave(open_source(FILMS), out, writer, prompt=prompt, join=3, cuts=Cuts(min_seconds=0.2))
    assert len(writer.asked) == asked  # its answers are kept


def test_the_result_is_a_source_of_documents_of_clips(tmp_path):
    out = tmp_path / "d.tsv"
    found = interleave(
        open_source(FILMS), out, None, prompt="{caption}", join=2, cuts=Cuts(min_seconds=0.2)
    )
    assert found.judged["texts"] == found.judged["captions"]
    stated, true = found.judged["texts"]
    assert stated == true > 20  # captions of the world are true
    source = open_source(f"{out}:frames=4")
    assert len(source) == 3
    sample = source[1]
    assert [text.text for text in sample.texts] == [
        open_source(FILMS)[at].captions()[0] for at in (2, 3)
    ]
    assert list(sample.images) == ["main", "page2"]
    frames = sample.images["page2"].frames()
    shown = open_source(FILMS)[3].images["frames"].frames()
    assert all(
        np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(frames, shown, strict=True)
    )


def test_facts_of_another_clip_are_judged_false(tmp_path):
    source = open_source(FILMS)
    texts = {f"train-0-{at:06d}#1": source[(at + 1) % 7].captions()[0] for at in range(7)}
    writer = Echo(lambda question: texts[question.key])
    found = interleave(
        source, tmp_path / "d.tsv", writer, cuts=Cuts(min_seconds=0.2), rules=Rules(min_clips=1)
    )
    stated, true = found.judged["texts"]
    assert true < stated / 2
    assert found.judged["captions"][0] == found.judged["captions"][1]


def test_speech_and_captions_of_a_model_reach_the_writer(tmp_path):
    root = tmp_path / "films"
    root.mkdir()
    frames = [photo(32, 24, seed) for seed in (1, 1, 1, 1, 2, 2, 2, 2)]
    (root / "cake.mp4").write_bytes(video(frames))
    (root / "cake.vtt").write_text(
        "WEBVTT\n\n00:00.000 --> 00:00.300\nfirst the eggs\n\n00:00.500 --> 00:00.700\nthen stir\n"
    )
    seen = []

    def looks(question):
        seen.append(question.image)
        return f"a picture of {question.key}"

    phrases = Echo(lambda question: "1. an egg\n2. a bowl")
    phrases.name = "phrases"
    found = interleave(
        open_source(str(root)), tmp_path / "d.tsv", None, prompt=" / ".join(FIELDS[1:]),
        captions=Echo(looks), regions=phrases, frames=4, cuts=Cuts(min_seconds=0.2),
    )  # fmt: skip
    [document] = found.documents
    assert [piece.text for piece in document] == [
        "a picture of cake.mp4#1 / an egg, a bowl / first the eggs",
        "a picture of cake.mp4#2 / an egg, a bowl / then stir",
    ]
    assert len(seen[0].frames()) == 4
    assert not found.judged  # no world


def test_rules_name_what_is_wrong_with_a_text():
    rules = Rules(max_words=12)
    barred = frozenset({"blood"})
    good = "a red cat sits on a mat"
    assert fault(good, rules, barred, []) == ""
    assert fault(good, rules, barred, [good]) == "as before"
    assert fault("...", rules, barred, []) == "no text"
    assert fault("a cat", rules, barred, []) == "too short"
    assert fault(f"{good} and {good}", rules, barred, []) == "too long"
    assert fault("the cat is the cat is the cat is", rules, barred, []) == "repeats itself"
    assert fault("the cat is the cat is", rules, barred, []) == ""
    assert fault("there is Blood on it", rules, barred, []) == "barred words"
    assert fault("there is bloodless art", rules, barred, []) == ""


def test_clips_that_a_model_finds_unlike_their_text_are_dropped(tmp_path):
    rules = Rules(similarity=0.5, min_clips=1)

    def score(clips, texts):
        assert all(len(clip.frames()) == 2 for clip in clips)
        return [0.4, 0.5, 0.6][: len(texts)]

    found = interleave(
        open_source(FILMS), tmp_path / "d.tsv", None, prompt="{caption}", join=3, frames=2,
        rules=rules, score=score, cuts=Cuts(min_seconds=0.2),
    )  # fmt: skip
    assert [len(document) for document in found.documents] == [2, 2]
    assert found.dropped["not alike"] == 3


def test_what_cannot_be_done_is_said_before_anything_is_written(tmp_path):
    source = open_source(FILMS)
    out = tmp_path / "d.tsv"
    with pytest.raises(InputError, match="none of"):
        interleave(source, out, Echo(), prompt="write something")
    with pytest.raises(InputError, match="go together"):
        interleave(source, out, Echo(), rules=Rules(similarity=0.3))
    with pytest.raises(InputError, match="no file of words"):
        interleave(source, out, Echo(), rules=Rules(barred=str(tmp_path / "none.txt")))
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="no document.*few clips"):
        interleave(source, out, None, prompt="{caption}", cuts=Cuts(min_seconds=0.2))
    assert not out.exists()
