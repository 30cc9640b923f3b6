"""The world `kidneys`: volumes, labels and reports say the same, sides are mirrored, missing labels
are untold, and hazards follow the attributes."""

import math

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.data.worlds.kidneys import Config, World
from diptych.data.worlds.kidneys.draw import MASS, SCANNERS, draw
from diptych.data.worlds.kidneys.words import ASIDES, ATTRIBUTES, PHASES, WORDS, key_of
from diptych.errors import InputError

FULL = World(Config(missing=0.0, slices=24, size=48, centres="a"))


def masses(count: int, **values: int):
    """Facts of kidneys with a mass that have these values."""
    found = []
    index = 0
    while len(found) < count:
        facts = FULL.sample(0, index)
        if facts.mass is not None and all(facts.values[k] == v for k, v in values.items()):
            found.append(facts)
        index += 1
    return found


def told(text: str, wordings: str) -> dict[str, int]:
    """The values that a report tells, by its sentences."""
    findings = text.removeprefix("Findings: ").partition("\nImpression: ")[0]
    found = {}
    for sentence in findings.removesuffix(".").split(". "):
        plain = sentence[0].lower() + sentence[1:]
        hits = [
            (name, at)
            for name, names in ATTRIBUTES.items()
            for at, value in enumerate(names)
            if plain in WORDS[wordings][key_of(name, value)]
        ]
        if not hits:
            assert plain in ASIDES or plain.startswith("no abnormalities")
            continue
        [(name, at)] = hits
        assert name not in found
        found[name] = at
    return found


@pytest.mark.parametrize("wordings", ["seen", "reserved"])
def test_reports_tell_the_labels_that_are_known_and_no_others(wordings):
    source = open_source(f"kidneys:count=200:missing=0.4:wordings={wordings}")
    untold = 0
    for index in range(200):
        sample = source[index]
        labels = {name: sample.labels[name] for name in ATTRIBUTES if sample.labels[name] >= 0}
        assert told(sample.captions()[0], wordings) == labels
        side = source.schema()["labels.side"].classes[sample.labels["side"]]
        assert f"{side.capitalize()} kidney" in sample.captions()[0]
        untold += len(source.world.sample(0, index).values) - len(labels)
    assert untold > 300


def test_sentences_are_unambiguous_and_reserved_ones_are_not_seen():
    seen = [text for texts in WORDS["seen"].values() for text in texts]
    reserved = [text for texts in WORDS["reserved"].values() for text in texts]
    assert len(set(seen + reserved + list(ASIDES))) == len(seen) + len(reserved) + len(ASIDES)
    keys = {key_of(name, value) for name, values in ATTRIBUTES.items() for value in values}
    assert set(WORDS["seen"]) == set(WORDS["reserved"]) == keys


def test_kidneys_of_a_patient_share_centre_and_phases_and_swapped_reports_are_the_others():
    plain = open_source("kidneys:count=60")
    swapped = open_source("kidneys:count=60:swapped=1.0")
    for index in range(0, 60, 2):
        left, right = plain[index], plain[index + 1]
        for name in ("patient", "centre"):
            assert left.labels[name] == right.labels[name]
        assert left.images.keys() == right.images.keys()
        assert (left.labels["side"], right.labels["side"]) == (0, 1)
        assert swapped[index].captions() == right.captions()
        assert swapped[index + 1].captions() == left.captions()
        assert swapped[index].labels.keys() == left.labels.keys()
        volume = swapped[index].images["main"].volume()
        np.testing.assert_array_equal(volume, left.images["main"].volume())


def test_a_share_of_patients_has_swapped_reports():
    plain = open_source("kidneys:count=200")
    half = open_source("kidneys:count=200:swapped=0.5")
    changed = [plain[at].captions() != half[at].captions() for at in range(0, 200, 2)]
    assert 30 < sum(changed) < 70


def test_the_sinus_faces_the_spine():
    """In a healthy kidney on the side of the spine voxels are darker; sides mirror each other."""
    for side, spine in ((0, slice(0, 24)), (1, slice(24, 48))):
        volume, labels = draw(side, None, "arterial", SCANNERS["a"], 24, 48, 3)
        inner = np.where(labels == 1, volume, np.nan)
        other = slice(24, 48) if side == 0 else slice(0, 24)
        assert np.nanmean(inner[..., spine]) < np.nanmean(inner[..., other]) - 30


def test_a_mass_is_where_labels_say_and_as_large():
    for name, axis, values in (("location", 0, (-1, 0, 1)), ("anterior", 1, (-1, 1, 0))):
        for value, sign in enumerate(values):
            for facts in masses(4, **{name: value}):
                _, labels = FULL.volume(facts, "plain")
                place = np.argwhere(labels == 2).mean(0)[axis] / labels.shape[axis] * 2 - 1
                assert (place < -0.06, abs(place) < 0.2, place > 0.06)[sign + 1], (name, value)
    sizes = [
        np.mean([(FULL.volume(each, "plain")[1] == 2).sum() for each in masses(6, radius=value)])
        for value in range(3)
    ]
    assert sizes[0] * 2 < sizes[1]
    assert sizes[1] * 1.6 < sizes[2]


def test_exophytic_masses_are_outside_and_near_ones_touch_the_sinus():
    shares = []
    for value in range(3):
        outside = []
        for facts in masses(5, exophytic=value):
            labels = FULL.volume(facts, "plain")[1] == 2
            kidney = draw(facts.side, None, "plain", SCANNERS["a"], 24, 48, facts.seed)[1] == 1
            outside.append((labels & ~kidney).sum() / labels.sum())
        shares.append(np.mean(outside))
    assert shares[0] < 0.2 < shares[1] < 0.7 < shares[2] + 0.1
    assert shares[0] < shares[1] - 0.15 < shares[2] - 0.3


def test_densities_are_those_of_kind_phase_and_what_a_mass_holds():
    for phase in PHASES:
        for value in range(3):
            for facts in masses(2, enhancement=value, necrosis=0, calcification=0, radius=2):
                volume, _ = FULL.volume(facts, phase)
                inner = _core(facts)
                found = volume[inner].mean()
                assert found == pytest.approx(MASS[value][phase], abs=8), (phase, value)
    for facts in masses(3, necrosis=1, enhancement=2):
        assert FULL.volume(facts, "arterial")[0][_core(facts, 0.3)].mean() < 60
    for value in (0, 1):
        for facts in masses(3, calcification=value, radius=2):
            volume, labels = FULL.volume(facts, "plain")
            assert ((volume > 250) & (labels == 2)).any() == bool(value)


def _core(facts, share: float = 0.6):
    """The voxels within a share of a mass' radius."""
    z, y, x = np.meshgrid(*((np.arange(n) + 0.5) / n * 2 - 1 for n in (24, 48, 48)), indexing="ij")
    at = facts.mass.centre
    far = np.sqrt((z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2)
    return far < share * facts.mass.radius


def test_an_irregular_margin_leaves_the_sphere():
    spread = []
    for value in (0, 1):
        far = []
        for facts in masses(4, margin=value, radius=2):
            labels = FULL.volume(facts, "plain")[1] == 2
            inside = _core(facts, 1.0)
            far.append((labels ^ inside).sum() / inside.sum())
        spread.append(np.mean(far))
    assert spread[0] < 0.02
    assert spread[1] > 0.15


def test_centres_differ_and_all_else_stays():
    [facts] = masses(1, radius=2)
    volumes = [
        draw(facts.side, facts.mass, "venous", SCANNERS[name], 24, 48, facts.seed)
        for name in "abcd"
    ]
    assert all(np.array_equal(volumes[0][1], labels) for _, labels in volumes)
    means = [volume[labels == 1].mean() for volume, labels in volumes]
    assert len({round(mean) for mean in means}) == 4
    assert {open_source("kidneys:count=20:centres=d")[i].labels["centre"] for i in range(20)} == {3}


def test_times_are_shorter_where_attributes_are_worse():
    source = open_source("kidneys:count=1500:missing=0.0")
    harm, times, events, malignant = [], [], [], []
    for index in range(1500):
        labels = source[index].labels
        if labels["kind"] == 0:
            assert math.isnan(labels["death_time"])
            assert labels["death_event"] == labels["malignant"] == labels["radius"] == -1
            continue
        harm.append(labels["radius"] + 1.5 * labels["necrosis"] + labels["margin"])
        times.append(labels["recurrence_time"])
        events.append(labels["recurrence_event"])
        malignant.append(labels["malignant"])
        assert labels["malignant"] <= (labels["kind"] == 2)
        assert labels["aggressive"] <= labels["malignant"]
    harm, times, events = map(np.array, (harm, times, events))
    assert 0.4 < events.mean() < 0.9
    assert np.median(times[harm <= 1]) > 2 * np.median(times[harm >= 3])
    assert 0.3 < np.mean(malignant) < 0.7


def test_a_sample_is_the_same_whenever_it_is_drawn():
    one, other = (open_source("kidneys:count=4:seed=5")[3] for _ in range(2))
    assert one.labels.keys() == other.labels.keys()
    for role, image in one.images.items():
        np.testing.assert_array_equal(image.volume(), other.images[role].volume())
    assert one.images["main"].decode().size == (32, 32)


def test_bad_options_are_refused():
    for options, match in (
        ("slices=4", "slices of kidneys is 4"),
        ("missing=2", "share"),
        ("centres=e", "centre of kidneys"),
        ("phases=late", "phase of kidneys"),
        ("wordings=new", "wordings"),
    ):
        with pytest.raises(InputError, match=match):
            open_source(f"kidneys:{options}")
    with pytest.raises(InputError, match="attributes"):
        World(Config()).texts_of("malignant", "benign", 2)
