"""What texts say is so: captions parse back to the facts, flags and rates agree, answers and labels
are right."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from tests.data.worlds.scenes_helpers import WORLDS, of, reported

from diptych.data.drawings import concepts as glyphs
from diptych.data.worlds import build
from diptych.data.worlds.scenes.claims import VALUES, claims, falsified, holds
from diptych.data.worlds.scenes.concepts import KINDS, table
from diptych.data.worlds.scenes.noise import BOILERPLATE
from diptych.data.worlds.scenes.parse import ParsedThing, mistakes, parse
from diptych.data.worlds.scenes.words import COLOURS, NUMBERS, PLACES, STYLES, plural


@pytest.mark.parametrize("name", WORLDS)
def test_what_captions_say_is_true(name):
    for scene, texts in reported(name, 60):
        for text in texts:
            if text.role in ("caption", "paraphrase", "web", "synthetic", "long"):
                assert mistakes(parse(text.text), scene) == [], text.text


@pytest.mark.parametrize("name", WORLDS)
def test_captions_without_drop_say_everything(name):
    world = build("scenes", {**WORLDS[name], "drop": 0})
    for index in range(40):
        scene = world.sample(1, index)
        facts = [thing for thing in scene.known if thing.described]
        expected = sorted((t.concept, t.count, t.size, t.texture, t.colour, t.place) for t in facts)
        for text in (
            *of(world.captions(scene), "caption"),
            *of(world.captions(scene), "paraphrase"),
        ):
            found = parse(text.text)
            assert (
                sorted(
                    (t.noun, t.count, t.size, t.texture, t.colour, t.place) for t in found.things
                )
                == expected
            )
            assert found.ground == scene.ground
            assert found.rendering == ("" if scene.rendering == "flat" else scene.rendering)
            assert found.palette == ("" if scene.palette == "natural" else scene.palette)
            assert (found.frame, found.lines, found.stamp) == (
                scene.easy,
                scene.hard,
                scene.salient,
            )
            assert set(text.attrs["objects"]) == {at for thing in facts for at in thing.ids}


def test_a_changed_fact_is_found_out():
    """The parser and the comparison can fail: any one fact changed makes a complete caption
    false."""
    for scene, texts in reported({"number": 2, "same": 0, "drop": 0, "styles": "seen"}, 40):
        found = parse(of(texts, "caption")[0].text)
        thing = scene.things[1]
        other = {
            kind: next(value for value in VALUES[kind] if value != getattr(thing, kind))
            for kind in ("colour", "size", "texture")
        }
        for kind, value in other.items():
            assert mistakes(found, scene.with_thing(1, **{kind: value})) == [kind]
        place = next(place for place in PLACES if place != thing.place)
        assert mistakes(
            found, scene.with_thing(1, items=(replace(thing.items[0], place=place),))
        ) == ["place"]
        assert mistakes(found, scene.with_thing(1, concept="anchor")) == ["there"]
        assert mistakes(found, replace(scene, things=scene.things[:1]))[0] == "there"
        assert mistakes(
            found, replace(scene, ground="grass" if scene.ground != "grass" else "sand")
        ) == ["ground"]


def thing(noun, count=None, size="", texture="", colour="", place=""):
    return (noun, count, size, texture, colour, place)


@pytest.mark.parametrize(
    ("text", "things", "whole"),
    [
        ("A big RED cat!", [thing("cat", 1, "large", colour="red")], {}),
        (
            "three fish and the key at the lower left",
            [thing("fish", 3), thing("key", place="bottom left")],
            {},
        ),
        ("there is no crab", [thing("crab", 0)], {}),
        ("there are four objects on a meadow", [], {"number": 4, "ground": "grass"}),
        (
            "a sketch of dunes with two spotted mushrooms",
            [thing("mushroom", 2, texture="dotted")],
            {"rendering": "pencil", "ground": "sand"},
        ),
        ("a star, stamped with a cross", [thing("star", 1)], {"stamp": "cross"}),
        (
            "the cat is in front of the bell",
            [thing("cat"), thing("bell")],
            {"front": (("cat", "bell"),)},
        ),
        ("buy now, 30 pieces, bhqx7_", [], {}),
        ("", [], {}),
    ],
)
def test_texts_of_any_origin_are_parsed(text, things, whole):
    found = parse(text)
    assert [(t.noun, t.count, t.size, t.texture, t.colour, t.place) for t in found.things] == things
    names = ("ground", "rendering", "palette", "frame", "lines", "stamp")
    assert {name: getattr(found, name) for name in (*names, "front", "number")} == {
        **dict.fromkeys(names, ""),
        "front": (),
        "number": None,
        **whole,
    }


def test_kinds_are_matched_so_that_the_fewest_mistakes_remain():
    scene = next(
        scene for scene, _ in reported({"number": 3, "same": 0, "objects": "cat+fish+crab"}, 1)
    )
    things = [
        ParsedThing(noun="animal", coarse=True, count=1, colour=thing.colour)
        for thing in scene.things
    ]
    assert mistakes(replace(parse(""), things=tuple(things[::-1])), scene) == []
    assert mistakes(replace(parse(""), things=(*things, things[0])), scene) == ["there"]
    wrong = next(
        colour for colour in COLOURS if colour not in {thing.colour for thing in scene.things}
    )
    assert mistakes(
        replace(parse(""), things=(*things[:2], replace(things[2], colour=wrong))), scene
    ) == ["colour"]


def test_nouns_are_unambiguous():
    forms = Counter(form for name in table() for form in {name, plural(name)})
    assert max(forms.values()) == 1
    assert not {form for form in forms if {"and", "with", "on"} & set(form.split())}


def test_paraphrases_differ_and_say_the_same():
    for _, texts in reported({"drop": 0, "styles": "all"}, 60):
        found = [text.text for text in of(texts, "paraphrase")]
        assert len(set(found)) == len(found) >= 4
        assert of(texts, "caption")[0].text in found
    for _, texts in reported({"drop": 1.0}, 30):
        found = [text.text for text in of(texts, "paraphrase")]
        assert len(set(found)) == len(found)


def test_the_share_of_facts_that_is_dropped():
    for drop in (0.0, 0.25, 0.6):
        told_, all_ = 0, 0
        for _, texts in reported({"drop": drop, "number": 2, "same": 0}, 120):
            found = parse(of(texts, "caption")[0].text)
            for thing in found.things:
                told_ += sum(
                    bool(value) for value in (thing.size, thing.texture, thing.colour, thing.place)
                )
                all_ += 4
        assert abs(told_ / all_ - (1 - drop)) < 0.05


def test_synthetic_texts_name_kinds_and_tell_of_clutter():
    for scene, texts in reported("clutter", 40):
        found = parse(of(texts, "synthetic")[0].text)
        assert {thing.noun for thing in found.things} <= set(KINDS)
        assert sorted(thing.colour for thing in found.things) == sorted(
            thing.colour for thing in scene.known
        )
        short = parse(of(texts, "caption")[0].text)
        assert [thing.noun for thing in short.things] == [scene.things[0].concept]


def test_web_texts_name_one_object_exactly():
    for scene, texts in reported("crowded", 60):
        (text,) = of(texts, "web")
        (thing,) = parse(text.text).things
        named = next(one for one in scene.things if one.concept == thing.noun)
        assert text.attrs["objects"] == named.ids


def test_long_texts_tell_one_fact_a_sentence_of_the_objects_they_name():
    kinds = Counter()
    for scene, texts in reported({"number": "1-4", "occlusion": 1.0, "styles": "seen"}, 80):
        for text in of(texts, "long"):
            found = parse(text.text)
            nouns = {thing.noun for thing in found.things}
            ids = {at for thing in scene.known if thing.concept in nouns for at in thing.ids}
            if text.attrs["fact"] == "number":
                ids = {item.id for item in scene.items}
            assert set(text.attrs["objects"]) == ids
            said = sum(
                bool(v) for t in found.things for v in (t.size, t.texture, t.colour, t.place)
            )
            said += sum(
                bool(getattr(found, name))
                for name in ("ground", "rendering", "palette", "front", "number")
            )
            assert said == (text.attrs["fact"] != "there")
            kinds[text.attrs["fact"]] += 1
    assert kinds.keys() >= {
        "number",
        "there",
        "colour",
        "texture",
        "size",
        "place",
        "front",
        "ground",
        "rendering",
        "palette",
    }


def test_long_texts_by_object_tell_all_of_one_object_a_sentence():
    for scene, texts in reported({"number": "1-4", "long": "objects", "styles": "seen"}, 60):
        long = of(texts, "long")
        things = [
            (text, *parse(text.text).things) for text in long if text.attrs["fact"] == "object"
        ]
        assert len(things) == len(scene.known)
        for (text, found), thing in zip(things, scene.known, strict=True):
            assert text.attrs["objects"] == thing.ids
            expected = (
                thing.concept,
                thing.count,
                thing.size,
                thing.texture,
                thing.colour,
                thing.place,
            )
            assert (
                found.noun,
                found.count,
                found.size,
                found.texture,
                found.colour,
                found.place,
            ) == expected
        rest = {text.attrs["fact"] for text in long} - {"object"}
        assert "ground" in rest <= {"ground", "rendering", "palette"}


def test_depth_is_told_of_objects_that_overlap():
    for scene, texts in reported({"number": 2, "same": 0, "occlusion": 1.0}, 60):
        for text in of(texts, "long"):
            for near, far in parse(text.text).front:
                depth = {thing.concept: thing.items[0].depth for thing in scene.things}
                assert depth[near] < depth[far]


def test_statements_and_hypotheses_are_labelled_rightly():
    flags, labels = Counter(), Counter()
    for scene, texts in reported(
        {"styles": "seen", "number": "1-4", "easy": 1.0, "overlay": 0.5}, 120
    ):
        for text in of(texts, "statement"):
            assert (mistakes(parse(text.text), scene) == []) == text.attrs["true"], text.text
            flags[text.attrs["true"]] += 1
        for text in of(texts, "hypothesis"):
            label = text.attrs["label"]
            assert bool(mistakes(parse(text.text), scene)) == (label == "contradiction"), text.text
            found = parse(text.text)
            says = any(
                (t.count, t.size, t.texture, t.colour, t.place) != (None, "", "", "", "")
                for t in found.things
            )
            says |= found != replace(parse(""), things=found.things)
            assert says == (label != "neutral"), text.text
            labels[label] += 1
    assert 0.42 < flags[True] / flags.total() < 0.58
    assert labels["entailment"] == labels["contradiction"] == labels["neutral"] == 120


def test_false_claims_are_false():
    for scene, _ in reported({"styles": "seen", "occlusion": 1.0}, 60):
        for claim in claims(scene):
            assert holds(claim, scene)
            for at in (0.0, 0.3, 0.7, 0.999):
                assert not holds(falsified(claim, scene, at, ("cat", "key", "bell")), scene)


def answer_of(question, scene):
    """Slow reference: the answer from the facts, by the question's words alone."""
    things = {
        form: thing for thing in scene.known for form in (thing.concept, plural(thing.concept))
    }
    if re.match(r"how many (objects|things)", question):
        return NUMBERS[sum(thing.count for thing in scene.known)]
    if found := re.match(r"how many (.*) are there", question):
        return NUMBERS[things[found[1]].count]
    if found := re.match(r"what colour (?:is|are) the (.*)\?", question):
        return things[found[1]].colour
    if found := re.match(r"what pattern (?:does|do) the (.*) have", question):
        return things[found[1]].texture
    if found := re.match(r"how large (?:is|are) the (.*)\?", question):
        return things[found[1]].size
    if found := re.match(r"where is the (.*)\?", question):
        return things[found[1]].place
    if found := re.match(r"is there an? (.*)\?", question):
        return "yes" if found[1] in things else "no"
    if found := re.match(r"what is in the (.*)\?", question):
        (name,) = {
            thing.concept
            for thing in scene.things
            for item in thing.items
            if item.place == found[1]
        }
        return name
    if question == "what is the ground?":
        return scene.ground
    assert question == "what is stamped on the picture?"
    return scene.salient


def test_answers_are_right_and_among_the_choices():
    asked, places = Counter(), Counter()
    for scene, texts in reported({"overlay": 0.5, "number": "1-5", "distractors": 1}, 150):
        questions, answers = of(texts, "question"), of(texts, "answer")
        assert len(questions) == len(answers) >= 2
        assert len({text.text for text in answers}) == len(
            answers
        )  # tar shards keep equal texts once
        for question, answer in zip(questions, answers, strict=True):
            assert answer.text == answer_of(question.text, scene), question.text
            choices = question.attrs["choices"]
            assert choices.count(answer.text) == 1
            assert len(set(choices)) == len(choices) >= 2
            asked[question.text.split()[1]] += 1
            if len(choices) == 4:
                places[choices.index(answer.text)] += 1
    assert len(asked) >= 5
    assert min(places[at] for at in range(4)) > 0.15 * places.total()


RATES = {"swap": 0.2, "boilerplate": 0.1, "junk": 0.15, "drop": 0.1, "wrong": 0.2}


def test_noise_comes_at_its_rate_and_its_flags_are_true():
    world = build(
        "scenes",
        {
            "noise": "+".join(f"{kind}={rate}" for kind, rate in RATES.items()),
            "number": "1-3",
            "drop": 0.1,
        },
    )
    clean = build("scenes", {"number": "1-3", "drop": 0.1})
    names = world.schema()["labels.noise"].classes
    counts = Counter()
    for index in range(900):
        scene = world.sample(0, index)
        counts[scene.noise] += 1
        if counts[scene.noise] > 60:
            continue
        texts = world.captions(scene)
        (caption,), (web,) = of(texts, "caption"), of(texts, "web")
        assert names[world.example(scene, "k").labels["noise"]] == (scene.noise or "clean")
        assert caption.attrs.get("noise", "") == web.attrs.get("noise", "") == scene.noise
        found, expected = (
            parse(caption.text),
            parse(of(clean.captions(replace(scene, noise="", reported=None)), "caption")[0].text),
        )
        wrong = mistakes(found, scene)
        if not scene.noise:
            assert found == expected
        elif scene.noise == "wrong":
            assert len(wrong) == 1
            assert mistakes(parse(web.text), scene) == ["there"]
        elif scene.noise == "drop":
            assert wrong == []
            assert len(found.things) == len(expected.things) - 1
            assert found.ground == expected.ground
        elif scene.noise == "boilerplate":
            assert caption.text in BOILERPLATE
            assert web.text in BOILERPLATE
        elif scene.noise == "junk":
            assert found == parse("")
            assert caption.text != web.text
        else:
            assert mistakes(found, scene.reported) == []
            assert caption.text == of(clean.captions(scene.reported), "caption")[0].text
        assert scene.noise in ("", "wrong", "drop") or caption.attrs["objects"] == ()
        assert of(texts, "paraphrase") == of(
            clean.captions(replace(scene, noise="", reported=None)), "paraphrase"
        )
    for kind, rate in RATES.items():
        assert abs(counts[kind] / 900 - rate) < 4 * np.sqrt(rate * (1 - rate) / 900)


def test_most_swapped_captions_are_false_of_the_image():
    world = build("scenes", {"noise": "swap=1"})
    false = [
        mistakes(parse(world.captions(scene)[0].text), scene) != []
        for scene in (world.sample(0, at) for at in range(100))
    ]
    assert np.mean(false) > 0.95


def test_junk_hardly_ever_comes_twice():
    world = build("scenes", {"noise": "junk=1", "texts": "caption"})
    texts = [world.captions(world.sample(0, at))[0].text for at in range(300)]
    assert len(set(texts)) == 300


def test_lexicons_belong_to_their_domains():
    words = {name: Counter() for name in ("sketch", "pixel", "poster")}
    for name, counter in words.items():
        for _, texts in reported({"styles": name, "drop": 0}, 60):
            counter.update(of(texts, "caption")[0].text.split())
    used = {name: {"small", "little", "tiny"} & set(counter) for name, counter in words.items()}
    assert used == {"sketch": {"small"}, "pixel": {"little"}, "poster": {"tiny"}}
    assert [STYLES[name].lexicon for name in used] == [0, 1, 2]


def test_only_the_roles_asked_for_are_given():
    world = build("scenes", {"texts": "caption+question"})
    assert {text.role for text in world.captions(world.sample(0, 0))} == {
        "caption",
        "question",
        "answer",
    }
    assert {name for name in world.schema() if name.startswith("texts.")} == {
        "texts.caption",
        "texts.question",
        "texts.answer",
    }


def test_documents_define_a_word_and_use_it_in_order():
    world = build("scenes", {"pages": "2-3", "number": "1-3"})
    lengths, words = Counter(), set()
    real = {
        word
        for glyph in glyphs()
        for name in (glyph["name"], *glyph["tags"])
        for word in name.split()
    }
    for index in range(40):
        scene = world.sample(0, index)
        sample = world.example(scene, "k")
        texts = of(sample.texts, "document")
        lengths[1 + len(scene.pages)] += 1
        words.add(scene.word)
        assert [text.attrs["order"] for text in texts] == list(range(len(texts)))
        roles = list(dict.fromkeys(text.attrs["image"] for text in texts))
        assert roles == list(sample.images) == ["main", "page2", "page3"][: len(roles)]
        assert texts[0].attrs["defines"] == scene.word
        assert scene.word in texts[0].text
        meaning = parse(texts[0].text)
        pages = dict(zip(roles, (scene, *scene.pages), strict=True))
        for page in pages.values():
            subject = page.things[0]
            assert (
                meaning.things[0].noun,
                meaning.things[0].colour,
                meaning.things[0].texture,
            ) == (
                subject.concept,
                subject.colour,
                subject.texture,
            )
            assert scene.word not in real
        for role, page in pages.items():
            own = [text for text in texts[1:] if text.attrs["image"] == role]
            assert scene.word in own[0].text  # the word stands in for the name …
            assert parse(own[0].text).things == ()
            assert own[0].attrs["objects"] == page.things[0].ids
            for text in own[1:]:  # … and the others are called by theirs
                assert mistakes(parse(text.text), page) == []
        assert Counter(box.image for box in sample.boxes) == Counter(
            {role: len(page.items) for role, page in pages.items()}
        )
    assert set(lengths) == {2, 3}
    assert len(words) > 35
