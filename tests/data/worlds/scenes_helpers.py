"""What the tests of texts of scenes share."""

from diptych.data.worlds import build

WORLDS = {
    "plain": {},
    "styles": {"styles": "all", "overlap": 0.5, "drop": 0.5},
    "all": {"objects": "all", "tinted": 0.7, "number": "1-3"},
    "crowded": {"number": "1-8", "same": 0.3, "objects": "common+shapes"},
    "signals": {"easy": 0.5, "hard": 0.5, "overlay": 0.7},
    "clutter": {"number": "2-4", "same": 0, "described": 1, "distractors": 1},
    "novel": {"split": "novel"},
    "by object": {"long": "objects", "styles": "all", "same": 0.3},
}


def reported(name_or_options, count, seed=0):
    world = build(
        "scenes",
        WORLDS.get(name_or_options, {}) if isinstance(name_or_options, str) else name_or_options,
    )
    for index in range(count):
        scene = world.sample(seed, index)
        yield scene, world.captions(scene)


def of(texts, role):
    return [text for text in texts if text.role == role]
