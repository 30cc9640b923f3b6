"""Reports: sentences are true of the image, sections share no names, boxes lie where findings are."""

import re

import numpy as np
import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.data.views import sentences
from diptych.data.worlds.reports import Config, World
from diptych.data.worlds.reports.draw import draw
from diptych.data.worlds.reports.words import KINDS, LEVELS, NAMES, NORMAL, SECTIONS, SIDES, SIZES
from diptych.errors import InputError

DENIALS = ("no ", "not ", "free of", "excluded", "without", "negative")


def read(sentence: str, section: str) -> tuple[str, tuple[bool, bool, bool] | None]:
    """The kind of a sentence, and side, level and size if it says that the kind is there."""
    said = sentence.lower()
    [kind] = [
        kind
        for kind, names in NAMES[section].items()
        if re.search(rf"\b({'|'.join(map(re.escape, names))})\b", said)
    ]
    if any(word in f"{said} " for word in DENIALS):
        return kind, None
    left = SIDES[True] in said.split()
    lower = any(word in said for word in LEVELS[section][True])
    large = any(word in said.split() for word in SIZES[section][True])
    return kind, (left, lower, large)


def test_sentences_are_true_of_the_facts():
    world = World(Config(number=4))
    for index in range(150):
        facts = world.sample(0, index)
        shown = {each.kind: (each.left, each.lower, each.large) for each in facts.findings}
        for text in world.captions(facts):
            said = sentences(text.text)
            if not shown:
                normal = [each for each in said if each.lower() in NORMAL[text.role]]
                assert len(normal) == 1
                said.remove(normal[0])
            found = dict(read(sentence, text.role) for sentence in said)
            assert len(found) == len(said)
            assert {kind: where for kind, where in found.items() if where} == shown
            assert not {kind for kind, where in found.items() if where is None} & shown.keys()
        for phrase, finding in zip(world.phrases(facts), facts.findings, strict=True):
            assert read(phrase, "impression") == (finding.kind, shown[finding.kind])


def test_sections_share_no_names():
    names = [name for section in SECTIONS for own in NAMES[section].values() for name in own]
    assert len(set(names)) == len(names) == 72
    for words in (LEVELS, SIZES):
        own = [set(words[section][0] + words[section][1]) for section in SECTIONS]
        assert not own[0] & own[1]
    words = [
        {word for names in NAMES[section].values() for name in names for word in name.split()}
        for section in SECTIONS
    ]
    assert not words[0] & words[1]


def test_a_finding_changes_the_image_in_its_box():
    """The left lung is on the right of the image."""
    world = World(Config(size=64, number=1, normal=0.0))
    for index in range(60):
        facts = world.sample(0, index)
        image, (where,) = draw(facts.findings, 64, facts.seed)
        plain, nothing = draw((), 64, facts.seed)
        assert not nothing
        change = np.abs(image.astype(int) - plain.astype(int)).max(-1)
        [box] = world.render(facts).boxes
        x0, y0, x1, y1 = map(int, box.xyxy)
        inside = np.zeros((64, 64), bool)
        inside[y0:y1, x0:x1] = True
        assert where[inside].any()
        assert not where[~inside].any()
        assert change[where].mean() > 25, facts.findings[0].kind
        assert change[inside].mean() > 5 * change[~inside].mean()
        [finding] = facts.findings
        assert ((x0 + x1) / 2 > 32) == finding.left
        assert ((y0 + y1) / 2 > 32) == finding.lower


def test_kinds_can_be_told_apart():
    """By the nearest mean of 16 x 16 pixels around the place."""
    world = World(Config(size=64, number=1, normal=0.0))
    features = []
    kinds = []
    for index in range(420):
        facts = world.sample(1, index)
        [finding] = facts.findings
        pixels = np.asarray(world.render(facts).image.convert("L"), np.float64)
        x, y = (int((each + 1) * 32) for each in finding.place)
        cut = pixels[max(0, y - 8) : y + 8, max(0, x - 8) : x + 8]
        features.append(np.asarray(Image.fromarray(cut).resize((16, 16))).ravel())
        kinds.append(KINDS.index(finding.kind) * 2 + finding.large)
    x, y = np.stack(features), np.array(kinds)
    means = np.stack([x[:300][y[:300] == value].mean(0) for value in range(12)])
    found = np.argmin(np.linalg.norm(x[300:, None] - means, axis=-1), axis=1) // 2
    assert (found == y[300:] // 2).mean() > 0.8


def test_options_leave_parts_out():
    source = open_source("reports:count=200:missing=0.5:images=false")
    counts = [len(source[index].texts) for index in range(200)]
    assert 60 < counts.count(1) < 140
    assert source.schema()["texts.findings"].optional
    assert not {"images.main", "boxes"} & source.schema().keys()
    assert not source[0].images
    normal = open_source("reports:count=20:normal=1.0")
    assert not any(len(normal[index].boxes) for index in range(20))
    phrases = open_source("reports:count=20:phrases=findings:normal=0.0")
    for index in range(20):
        for box in phrases[index].boxes:
            assert read(box.text, "findings")[0] == KINDS[box.label]


def test_hypotheses_follow_as_their_label_says():
    source = open_source("reports:count=200:inference=true")
    names = source.schema()["labels.entailment"].classes
    seen = set()
    for index in range(200):
        sample = source[index]
        kind, premise = read(sample.captions()[0], "findings")
        other, hypothesis = read(sample.captions("question")[0], "impression")
        label = names[sample.labels["entailment"]]
        assert sample.captions("answer") == [label]
        expected = "contradiction" if bool(premise) != bool(hypothesis) else "entailment"
        assert label == (expected if kind == other else "neutral")
        if label == "entailment":
            assert premise == hypothesis
        seen.add((label, bool(premise)))
    assert len(seen) == 6


def test_classes_have_sentences_of_their_own():
    world = World(Config())
    for name in ("effusion", "no effusion"):
        found = world.texts_of("effusion", name, 8)
        assert len(set(found)) == 8
        for text in found:
            kind, where = read(text, "impression")
            assert kind == "effusion"
            assert (where is None) == name.startswith("no ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("size=16", "it must be 32 to 512"),
        ("number=5", "it must be 1 to 4"),
        ("missing=2.0", "it must be 0 to 1"),
        ("split=dev", "unknown split of reports"),
        ("phrases=impresion", "did you mean 'impression'"),
    ],
)
def test_bad_options_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        open_source(f"reports:{options}")
