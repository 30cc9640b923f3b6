"""All texts of a scene, by role."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from diptych.data.sample import Text
from diptych.data.worlds.scenes import captions, noise
from diptych.data.worlds.scenes.captions import Ways
from diptych.data.worlds.scenes.claims import (
    Claim,
    Question,
    claims,
    expectation,
    falsified,
    question,
    sentence,
    undecided,
)
from diptych.data.worlds.scenes.comparisons import TRUTHS, compared
from diptych.data.worlds.scenes.comparisons import sentence as comparing
from diptych.data.worlds.scenes.config import ASKED
from diptych.data.worlds.scenes.facts import Scene
from diptych.data.worlds.scenes.registers import in_register
from diptych.data.worlds.scenes.words import REGISTERS

EACH = 4  # questions, statements and hypotheses of a scene


def texts(
    scene: Scene,
    roles: Sequence[str],
    drop: float,
    classes: Sequence[str],
    long: str = "facts",
    asks: Sequence[str] = ASKED,
    usual: Mapping[str, str] | None = None,
) -> list[Text]:
    """The texts of some roles; `attrs["objects"]` are the objects that a text describes.

    `long` is the content of a sentence of a long text: one fact, or all of one object. `asks` are the
    kinds of facts that questions are about, `usual` the usual colours by concept.
    """
    ways = Ways.of(scene)
    makers = dict(_ROLES, question=partial(_questions, asks=asks, usual=usual))
    if long == "objects":
        makers["long"] = _by_object
    found: list[Text] = []
    for role in roles:
        found += makers[role](scene, ways, drop, classes)
    return found


def _caption(
    scene: Scene, ways: dict[str, Ways], drop: float, classes: Sequence[str]
) -> list[Text]:
    reported = noise.noisy_texts(scene, ways, drop, classes)
    flag = {"noise": scene.noise} if scene.noise else {}
    return [Text(text=reported.caption, attrs={"objects": reported.ids, **flag})]


def _web(scene: Scene, ways: dict[str, Ways], drop: float, classes: Sequence[str]) -> list[Text]:
    reported = noise.noisy_texts(scene, ways, drop, classes)
    flag = {"noise": scene.noise} if scene.noise else {}
    return [Text(text=reported.web, role="web", attrs={"objects": reported.web_ids, **flag})]


def _paraphrase(
    scene: Scene, ways: dict[str, Ways], drop: float, classes: Sequence[str]
) -> list[Text]:
    about = {"objects": captions.ids(scene)}
    return [
        Text(text=text, role="paraphrase", attrs=about)
        for text in captions.paraphrases(scene, ways, drop)
    ]


def _synthetic(
    scene: Scene, ways: dict[str, Ways], drop: float, classes: Sequence[str]
) -> list[Text]:
    about = {"objects": captions.ids(scene, clutter=True)}
    return [Text(text=captions.synthetic(scene, ways), role="synthetic", attrs=about)]


def _long(scene: Scene, ways: dict[str, Ways], drop: float, classes: Sequence[str]) -> list[Text]:
    way = ways["long"]
    return [
        Text(
            text=sentence(claim, way, way.free(at)),
            role="long",
            attrs={"objects": claim.ids, "fact": claim.kind},
        )
        for at, claim in enumerate(claims(scene))
    ]


def _by_object(
    scene: Scene, ways: dict[str, Ways], drop: float, classes: Sequence[str]
) -> list[Text]:
    """A sentence for each thing with all its facts, and the sentences about the whole image."""
    way = ways["long"]
    found = [
        Text(
            text=f"there {'is' if thing.count == 1 else 'are'} {captions.placed(thing, way)}.",
            role="long",
            attrs={"objects": thing.ids, "fact": "object"},
        )
        for thing in scene.known
    ]
    return found + [text for text in _long(scene, ways, drop, classes) if not text.attrs["objects"]]


def _drawn(scene: Scene, way: Ways) -> list[Claim]:
    """The scene's claims in random order."""
    found = claims(scene)
    return [found[at] for at in sorted(range(len(found)), key=way.free)]


def _questions(
    scene: Scene,
    ways: dict[str, Ways],
    drop: float,
    classes: Sequence[str],
    *,
    asks: Sequence[str],
    usual: Mapping[str, str] | None,
) -> list[Text]:
    """Questions, each followed by its answer, without repeated answers in a sample.

    With usual colours answers are repeated: which of two is left out would depend on them.
    """
    way = ways["question"]
    asked: dict[str, Question] = {}
    for at, claim in enumerate(_drawn(scene, way)):
        if claim.kind not in asks:
            continue
        share = way.free(at + 64)
        found = [question(claim, scene, share, classes, usual)]
        if usual:
            found.append(expectation(claim, usual, share))
        for one in found:
            if one and len(asked) < EACH:
                asked.setdefault(one.text if usual else one.answer, one)
    return [
        text
        for one in asked.values()
        for text in (
            Text(text=one.text, role="question", attrs=_about(one)),
            Text(text=one.answer, role="answer", attrs={"objects": one.ids}),
        )
    ]


def _about(one: Question) -> dict[str, Any]:
    known = {} if one.usual is None else {"usual": one.usual}
    return {"objects": one.ids, "choices": one.choices, **known}


def _statements(
    scene: Scene, ways: dict[str, Ways], drop: float, classes: Sequence[str]
) -> list[Text]:
    """Sentences of which about half are true."""
    way = ways["statement"]
    found = []
    for at, claim in enumerate(_drawn(scene, way)[:EACH]):
        true = way.free(at + 64) < 0.5
        reported = claim if true else falsified(claim, scene, way.free(at + 80), classes)
        attrs = {"objects": reported.ids, "fact": reported.kind, "true": true}
        found.append(
            Text(text=sentence(reported, way, way.free(at + 96)), role="statement", attrs=attrs)
        )
    return found


def _hypotheses(
    scene: Scene, ways: dict[str, Ways], drop: float, classes: Sequence[str]
) -> list[Text]:
    """A sentence that the image entails, one that it contradicts and a neutral one, in random
    order."""
    way = ways["hypothesis"]
    true, base = _drawn(scene, way)[:2]
    false = falsified(base, scene, way.free(80), classes)
    thing = scene.known[int(way.free(81) * len(scene.known))]
    reported = [
        ("entailment", true.ids, sentence(true, way, way.free(96))),
        ("contradiction", false.ids, sentence(false, way, way.free(97))),
        ("neutral", thing.ids, undecided(thing, way.free(98))),
    ]
    order = sorted(range(3), key=lambda at: way.free(at + 100))
    return [
        Text(text=text, role="hypothesis", attrs={"objects": ids, "label": label})
        for label, ids, text in (reported[at] for at in order)
    ]


def _comparison(
    scene: Scene, ways: dict[str, Ways], drop: float, classes: Sequence[str]
) -> list[Text]:
    """A statement about the first two images of a document, and whether it is true."""
    found, true = compared(scene, scene.pages[0], classes)
    text = comparing(found, ways["statement"].free(0))
    return [
        Text(text=text, role="question", attrs={"choices": TRUTHS, "fact": found.kind}),
        Text(text=TRUTHS[true], role="answer"),
    ]


def _register(
    scene: Scene, ways: dict[str, Ways], drop: float, classes: Sequence[str], *, register: str
) -> list[Text]:
    text = in_register(scene, ways["register"], register, drop)
    return [Text(text=text, role=register, attrs={"objects": captions.ids(scene)})]


_Maker = Callable[[Scene, dict[str, Ways], float, Sequence[str]], list[Text]]
_ROLES: dict[str, _Maker] = {
    "caption": _caption,
    "paraphrase": _paraphrase,
    "web": _web,
    "synthetic": _synthetic,
    "long": _long,
    "statement": _statements,
    "hypothesis": _hypotheses,
    "comparison": _comparison,
    **{register: partial(_register, register=register) for register in REGISTERS},
}
