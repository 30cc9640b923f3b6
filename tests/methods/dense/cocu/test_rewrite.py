"""The concepts of a source: what is read, left out and written; on the command line."""

import json

import numpy as np
import pytest
from tests.cli.helpers import make_folder
from tests.evaluation.helpers import Dot, Fake, Rows

from diptych.cli import main
from diptych.data.sample import Sample, Text
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.dense.cocu.curation import Gallery, curate
from diptych.methods.dense.cocu.rewrite import Rewriting, rewrite

THINGS = [f"thing {number}" for number in range(6)]


def fake():
    made = Fake(np.eye(6) + 0.2 * np.random.default_rng(0).normal(size=(6, 6)))
    made.name = "fake"
    return made


def things(*said, damaged=()):
    """Image i shows thing i mod 6 and has these captions."""
    return Rows(
        [
            Sample(
                key=str(at),
                source="rows",
                images={"main": Dot(at % 6, "truncated" if at in damaged else "")},
                texts=[Text(text=text) for text in texts.split("|")],
            )
            for at, texts in enumerate(said)
        ]
    )


SAID = (
    "thing 0",
    "thing 1|Things 0 and 2",
    "nothing",
    "thing 3",
    "thing 4",
    "thing 5",
    "a thing 3",
)


def by_curate(images, index, mentions, **options):
    vectors = np.asarray(fake().vectors)
    found = curate(vectors[images], vectors[index], mentions, vectors, **options)
    return [own.numbers.tolist() for own in found]


def test_concepts_come_from_the_captions_of_near_images():
    found = Rewriting(things(*SAID), fake(), THINGS, neighbours=3, batch_size=2)
    mentions = [[0], [1], [], [3], [4], [5], [3]]
    rows = [0, 1, 2, 3, 4, 5, 0]
    own = [each.numbers.tolist() for each in found.concepts()]
    assert own == by_curate(rows, rows, mentions, neighbours=3)
    assert any(len(numbers) > 1 for numbers in own)
    assert found.summary.samples == 7
    assert found.summary.concepts == sum(map(len, own))
    assert found.summary.rewritten == sum(map(bool, own))


def test_all_captions_of_an_image_count_and_plurals_of_the_last_word():
    gallery = Gallery(THINGS)
    assert gallery.mentioned("Things 0 and 2") == []  # the number is the last word
    found = Rewriting(things("thing 0|thing 2", *SAID[1:]), fake(), THINGS, neighbours=1)
    assert sorted(next(iter(found.concepts())).numbers.tolist()) == [0, 2]


def test_an_index_gives_the_captions():
    index = things(*SAID)
    told = []
    found = Rewriting(
        things("nothing", "at all"),
        fake(),
        THINGS,
        index=index,
        neighbours=1,
        progress=lambda done, total: told.append((done, total)),
    )
    assert [each.numbers.tolist() for each in found.concepts()] == [[0], [1]]
    assert told[-1] == (11, 11)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_images_that_cannot_be_read_are_counted_and_have_no_concepts():
    found = Rewriting(things(*SAID, damaged=(0, 4)), fake(), THINGS, neighbours=1, batch_size=3)
    own = [each.numbers.tolist() for each in found.concepts()]
    assert own == [[], [1], [], [3], [], [5], [3]]
    assert dict(found.summary.bad) == {"truncated": 2}


def test_what_is_written_is_read_again(tmp_path):
    folder = make_folder(tmp_path / "images", 6)
    path = tmp_path / "rewritten.jsonl"
    source = open_source(f"{folder}/")
    model = fake()
    model.embed_images = lambda images, batch_size: model.vectors[
        images.float().mean((1, 2, 3)).long() % 6
    ]
    names = ["red", "green", "blue", "olive", "thing"]
    vectors = model.vectors
    model.embed_texts = lambda texts: vectors[[len(text) % 6 for text in texts]]
    summary = rewrite(source, f"{folder}/", model, names, path, neighbours=3)
    again = open_source(f"rewritten:{path}")
    expected = list(Rewriting(source, model, names, neighbours=3).concepts())
    for sample, own in zip(again, expected, strict=True):
        said = [text for text in sample.texts if text.role == "concept"]
        assert [text.text for text in said] == [names[number] for number in own.numbers]
        assert [text.attrs["score"] for text in said] == pytest.approx(own.scores.tolist())
        pairs = zip([text.attrs["cluster"] for text in said], own.clusters.tolist(), strict=True)
        assert len(set(pairs)) == len(set(own.clusters.tolist()))
    assert summary.samples == 6


def test_what_cannot_work_is_refused():
    with pytest.raises(InputError, match="mentions a name of the gallery, such as unicorn"):
        Rewriting(things(*SAID), fake(), ["unicorn"])
    with pytest.raises(InputError, match="of role 'long' of rows mentions"):
        Rewriting(things(*SAID), fake(), THINGS, role="long")
    with pytest.raises(InputError, match="no image of rows can be read"):
        Rewriting(things(SAID[0], damaged=(0,)), fake(), THINGS)


def test_the_command_writes_what_cocu_trains_on(tmp_path, capsys):
    path = tmp_path / "rewritten.jsonl"
    gallery = tmp_path / "names.txt"
    gallery.write_text("Cat\ndog\ncar\ntree\nstar\nbanana\nguitar\nkey\napple\nclock\n")
    data = "scenes:count=24:number=2:described=1:size=32"
    begin = ["data", "rewrite", data, "--model", "tiny"]
    options = ["--gallery", str(gallery), "--k", "4", "--out", str(path)]
    assert main([*begin, *options]) == 0
    out = capsys.readouterr().out
    assert "24 samples" in out
    assert f"--data rewritten:{path}" in out
    head = json.loads(path.read_text().splitlines()[0])
    assert head["source"] == data
    samples = list(open_source(f"rewritten:{path}"))
    assert any(len(sample.captions("concept")) > 1 for sample in samples)
    for wrong, message in (
        ([*begin, "--out", str(path)], "no concepts to look for"),
        (["data", "rewrite", data, *options], "no model to compare with"),
        ([*begin, *options[:-1], str(tmp_path / "a.csv")], "the concepts are a .jsonl file"),
        ([*begin, *options, "--count", "3"], "--count goes with"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
