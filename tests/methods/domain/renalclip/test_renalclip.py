"""RenalCLIP: patients and phases, the alignment by loops, frozen texts, stages, start from a language
model, and the tasks from the world to a number."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.factories import foreign_lm, make_method
from torch.nn.functional import normalize

from diptych.data.batch import Batch, Images, Tokens
from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sample import Sample
from diptych.data.sources import open_source
from diptych.data.tokenizers import build
from diptych.data.volumes import ArrayVolume, VolumePreprocess
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.inference.predict import predict
from diptych.methods.base import At
from diptych.methods.domain.renalclip import RenalCLIP
from diptych.methods.domain.renalclip.patients import Patients, PatientView
from diptych.methods.make import Make
from diptych.methods.store import load
from diptych.rng import generator
from diptych.testing import Toy
from diptych.training.config import resolve
from diptych.training.prepare import Run
from diptych.training.run import run

TOWER = "resnet3d:image_size=16:slices=8:widths=(4,8):depths=(1,1):stem=3"
WORDS = "text:width=16:depth=1:heads=2:causal=false:pooling=mean"
ALIGN = At(0, 10, 0, 0, "train")


@pytest.fixture(scope="module")
def words():
    source = open_source("kidneys:count=40")
    texts = [source[at].captions()[0] for at in range(40)]
    return build("bpe:vocab_size=400:context=96:special=mask", texts)


def method(words, **config):
    return make_method(
        RenalCLIP, image=TOWER, text=WORDS, embed_dim=16, words=words, **{"augment": None, **config}
    )


# ---- patients


def test_kidneys_are_grouped_by_patient_two_by_two():
    class Held(Toy):
        def labels(self, name):
            return np.array([7, 3, 7, -1, 3, 7, 5, 7])

    found = Patients(Held(8, ["labels.patient"]), "patient")
    rows = [[int(kidney.key) for kidney in found[at].edits] for at in range(len(found))]
    assert rows == [[1, 4], [6], [0, 2], [5, 7]]
    assert list(found.keys()) == ["001", "006", "000", "005"]


def test_equal_patients_of_two_sources_are_different_ones():
    joined = open_source("kidneys:count=4,kidneys:count=4:seed=1")
    found = Patients(joined, "patient")
    assert [[each.labels["patient"] for each in found[at].edits] for at in range(4)] == [
        [0, 0], [1, 1], [0, 0], [1, 1],
    ]  # fmt: skip


def kidney(number: int, **volumes: float) -> Sample:
    images = {name: ArrayVolume(np.full((1, 2, 2), value)) for name, value in volumes.items()}
    return Sample(
        key=str(number),
        source="",
        images=images,
        labels={"same_text": number},
        arrays={"variants": np.arange(10.0).reshape(5, 2) + 100 * number},
    )


def test_both_kidneys_have_one_phase_and_each_its_own_variant():
    prepare = VolumePreprocess(size=2, slices=1, window=(0, 10))
    view = PatientView(preprocess=prepare, label="patient", phases=("a", "v"))
    both = [kidney(0, main=1, a=1, v=3), kidney(1, main=2, a=2, v=4)]
    patient = replace(both[0], edits=both)
    phases, variants = set(), [set(), set()]
    for seed in range(60):
        found = view(patient, generator(seed, "view"), 0.3)
        assert found["images.main"].shape == (2, 1, 1, 2, 2)
        means = (10 * found["images.main"].mean((1, 2, 3, 4))).round().tolist()
        phases.add(tuple(means))
        for row in range(2):
            variants[row].add(float(found["fields.text"][row, 0]) - 100 * row)
    assert phases == {(1, 2), (3, 4)}
    assert variants == [{0, 2, 4, 6, 8}] * 2
    still = view(patient, generator(0, "view"), None)
    assert still["fields.text"][:, 0].tolist() == [0, 100]
    assert still["fields.same"].tolist() == [0, 1]
    alone = view(replace(both[1], edits=both[1:]), generator(0, "view"), None)
    assert alone["fields.there"].tolist() == [True, False]


# ---- the alignment


def batch_of(images, texts, there, same=None):
    return Batch(
        images={"main": Images(images)},
        fields={
            "text": texts,
            "there": torch.tensor(there),
            "same": torch.arange(texts.shape[0] * 2).view(-1, 2) if same is None else same,
        },
        keys=tuple(map(str, range(len(images)))),
    )


def drawn(seed=0):
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 2, 1, 8, 16, 16, generator=g)
    texts = normalize(torch.randn(3, 2, 16, generator=g), dim=-1)
    return images, texts


def test_alignment_equals_loops_over_the_kidneys_that_are_there(words):
    made = method(words).eval()
    images, texts = drawn()
    there = [[True, True], [True, False], [True, True]]
    batch = batch_of(images, texts, there)
    found = made.loss(made.encode(batch, ALIGN), batch, ALIGN)
    pairs = [(p, k) for p in range(3) for k in range(2) if there[p][k]]
    assert len(pairs) == 5
    vectors = []
    for p, k in pairs:
        pooled = made.model.image(images[p, k][None]).pooled
        vectors.append(normalize(made.model.image_projection(pooled), dim=-1)[0].tolist())
    written = [texts[p, k].tolist() for p, k in pairs]
    scale = math.exp(math.log(1 / 0.07))
    logits = [
        [scale * sum(a * b for a, b in zip(v, t, strict=True)) for t in written] for v in vectors
    ]
    total = 0.0
    for table in (logits, list(zip(*logits, strict=True))):
        for at, line in enumerate(table):
            total += math.log(sum(map(math.exp, line))) - line[at]
    assert float(found.total.detach()) == pytest.approx(total / 10, rel=1e-5)


def test_scale_begins_and_ends_as_published(words):
    scale = method(words).model.logit_scale
    assert float(scale().detach()) == pytest.approx(14.285714, abs=1e-5)
    for value, bound in ((9.0, 100.003), (-1.0, 1.0)):
        torch.nn.init.constant_(scale.value, value)
        scale.clamp_()
        assert float(scale().detach()) == pytest.approx(bound, abs=1e-3)


def test_texts_are_frozen_and_not_projected(words):
    made = method(words)
    [*_, stage] = made.stages()
    assert isinstance(made.model.text_projection, torch.nn.Identity)
    assert isinstance(made.model.image_projection, torch.nn.Linear)
    assert made.model.image_projection.bias is not None
    assert stage.lr_scale["model.text"] == 0
    assert stage.lr_scale["model.image"] == 0.02
    images, texts = drawn()
    texts.requires_grad_()
    batch = batch_of(images, texts.detach(), [[True, True]] * 3)
    made.loss(made.encode(batch, ALIGN), batch, ALIGN).total.backward()
    assert texts.grad is None
    assert all(p.grad is None for p in made.model.text.parameters())
    assert made.model.image.stem.weight.grad.any()


def test_a_common_rotation_leaves_the_loss(words):
    made = method(words)
    images, texts = drawn()
    turn, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(4)))
    vectors = normalize(torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(5)), dim=-1)
    losses = []
    for matrix in (torch.eye(16), turn):
        batch = batch_of(images, texts @ matrix, [[True, True]] * 3)
        losses.append(float(made.loss({"image": vectors @ matrix}, batch, ALIGN).total.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("duplicates", ["masked", "positives"])
def test_equal_reports_of_others_may_be_no_negatives(words, duplicates):
    """Images and texts of two groups, at their texts: equal texts leave ln 3 as they are, and 0
    otherwise."""
    same = torch.tensor([[0, 1], [0, 1], [0, 1]])
    texts = torch.eye(16)[same]
    losses = {}
    for name in ("apart", duplicates):
        made = method(words, duplicates=name)
        torch.nn.init.constant_(made.model.logit_scale.value, 4.6)
        batch = batch_of(drawn()[0], texts, [[True, True]] * 3, same)
        losses[name] = float(made.loss({"image": texts.clone()}, batch, ALIGN).total.detach())
    assert losses["apart"] == pytest.approx(math.log(3), abs=1e-4)
    expected = 0 if duplicates == "masked" else math.log(3)
    assert losses[duplicates] == pytest.approx(expected, abs=1e-4)


def test_the_bank_holds_the_vectors_of_each_variant(words):
    made = method(words, variants=3).eval()
    source = open_source("kidneys:count=6")
    made.setup({"train": source})
    run_ = Run(made, {"train": source}, ALIGN, torch.device("cpu"))
    made.fill(run_)
    columns = run_.columns["train"]
    assert columns["variants"].shape == (6, 3, 16)
    for row in range(6):
        ids = words.encode([source[row].captions()[0]])[0]
        with torch.no_grad():
            expected = made.model.embed_texts(torch.tensor([ids]), torch.tensor([len(ids)]))[0]
        np.testing.assert_allclose(columns["variants"][row, 0], expected, atol=1e-5)
    texts = [source[row].captions()[0] for row in range(6)]
    groups = columns["same_text"]
    for a in range(6):
        for b in range(6):
            assert (groups[a] == groups[b]) == (texts[a] == texts[b])


# ---- the stages before


def test_stages_train_their_own_tower_and_share_nothing_else(words):
    made = method(words)
    trained = {stage.name: dict(stage.lr_scale) for stage in made.stages()}
    assert list(trained) == ["attributes", "words", "reports", "train"]
    assert trained["attributes"] == {"": 0, "model.image": 1, "heads": 1}
    assert trained["words"] == trained["reports"] == {"": 0, "model.text": 1}
    assert [stage.name for stage in method(words, knowledge=("words",)).stages()] == [
        "words",
        "train",
    ]


def test_heads_have_a_class_for_each_name_or_number(words):
    made = method(words, attributes=("kind", "margin", "patient"), head_dropout=0.3)
    made.setup({"train": open_source("kidneys:count=8")})
    sizes = {name: (head[0].p, head[1].out_features) for name, head in made.heads.items()}
    assert sizes == {"kind": (0.3, 3), "margin": (0.3, 2), "patient": (0.3, 4)}


def test_heads_depend_on_the_runs_seed_alone(words):
    found = []
    for seed, later in ((0, 1), (0, 2), (5, 1)):
        made = make_method(
            RenalCLIP, seed, image=TOWER, text=WORDS, embed_dim=16, words=words, augment=None
        )
        torch.manual_seed(later)
        made.setup({"train": open_source("kidneys:count=8")})
        found.append(made.heads["kind"][1].weight)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_best_epoch_of_the_validation_may_be_delivered(words):
    assert method(words).stages()[-1].select is None
    assert method(words, select="val/t2i_r5").stages()[-1].select == "val/t2i_r5"


def test_a_stream_of_texts_takes_the_reports_place(words):
    made = method(words)
    source = open_source("kidneys:count=6")
    made.setup({"train": source, "texts": source})
    streams = {stage.name: tuple(stage.streams) for stage in made.stages()}
    assert streams["words"] == streams["reports"] == ("texts",)
    assert streams["attributes"] == streams["train"] == ("train",)
    made.setup({"train": source, "words": source})
    streams = {stage.name: tuple(stage.streams) for stage in made.stages()}
    assert streams["words"] == ("words",)
    assert streams["reports"] == ("train",)
    made.setup({"train": source, "texts": source, "reports": source})
    streams = {stage.name: tuple(stage.streams) for stage in made.stages()}
    assert (streams["words"], streams["reports"]) == (("texts",), ("reports",))
    with pytest.raises(InputError, match="stream of renalclip"):
        made.setup({"train": source, "text": source})


def test_masked_words_are_predicted_in_both_directions(words):
    """A change of a later word changes the prediction, since attention is bidirectional; masked ids
    are the mask alone."""
    made = method(words, mask_rate=0.5).eval()
    stage = made.stages()[1]
    loader = Loader(open_source("kidneys:count=6"), made.views(stage), InOrder(), 6, steps=1)
    [batch] = loader.epoch(0)
    at = replace(ALIGN, stage="words")
    ids, marks = batch.text.ids[:, 0], batch.text.marks[:, 0]
    assert (ids[marks >= 0] == words.special["mask"]).all()
    assert 0.3 < float((marks >= 0).sum() / batch.text.lengths.sum()) < 0.7
    features = made.encode(batch, at)
    assert features["count"].sum() == (marks[:, 1:] >= 0).sum()
    start = int((marks[0] >= 0).nonzero()[0, 0])
    last = int(batch.text.lengths[0, 0]) - 1
    assert last > start
    tokens = made.model.text(ids[:1], batch.text.lengths[0]).tokens
    changed = ids[:1].clone()
    changed[0, last] = (changed[0, last] + 1) % 300
    other = made.model.text(changed, batch.text.lengths[0]).tokens
    assert not torch.allclose(tokens[0, start], other[0, start])


def test_two_passes_of_a_report_are_contrasted_at_the_temperature(words):
    made = method(words)
    at = replace(ALIGN, stage="reports")
    g = torch.Generator().manual_seed(0)
    one, two = normalize(torch.randn(2, 4, 8, generator=g, dtype=torch.float64), dim=-1)
    found = made.loss({"one": one, "two": two}, Batch(keys=("",) * 4), at).total
    total = 0.0
    for i in range(4):
        line = [20 * float(one[i] @ two[j]) for j in range(4)]
        total += math.log(sum(map(math.exp, line))) - line[i]
    assert float(found) == pytest.approx(total / 4)


def started(lm):
    return make_method(RenalCLIP, image=TOWER, text=WORDS, embed_dim=16, lm=lm, augment=None)


def test_the_text_tower_starts_from_a_language_model_and_knows_a_mask():
    kept = load("tiny-lm")
    made = started("tiny-lm")
    tower = made.model.text
    assert not tower.config.causal
    assert tower.config.pooling == "mean"
    assert made.output is None
    assert made.make.words.ids("a red cat") == kept.tokenizer.ids("a red cat")
    assert made.make.words.special_id("mask") == kept.tokenizer.vocab_size
    own = tower.state_dict()
    table = own.pop("table.weight")
    theirs = kept.lm.tower.state_dict()
    words = theirs.pop("table.weight")
    assert torch.equal(table[:-1], words)
    torch.testing.assert_close(table[-1], words.mean(0))
    assert all(torch.equal(value, theirs[name]) for name, value in own.items())
    with pytest.raises(InputError, match="no language model"):
        started("tiny")


def test_a_foreign_language_model_reads_in_both_directions(tmp_path):
    made = started(foreign_lm(tmp_path, build("bpe:vocab_size=300", ["a cyst of the kidney"] * 3)))
    words = made.make.words
    mask = words.special_id("mask")
    tower = made.model.text
    assert tower.table.weight.shape == (words.vocab_size, 16)
    ids = torch.tensor([words.ids("a cyst of the kidney")])
    lengths = torch.tensor([ids.shape[1]])
    found = tower(ids, lengths).tokens
    changed = ids.clone()
    changed[0, -1] = mask
    assert not torch.allclose(found[0, 0], tower(changed, lengths).tokens[0, 0], atol=1e-5)
    padded = torch.cat([ids, ids[:, :2]], 1)
    torch.testing.assert_close(tower(padded, lengths).pooled, tower(ids, lengths).pooled)
    # the layer of its own output predicts the words
    batch = tokens_of(changed, ids, lengths)
    stage = made.stages()[1]
    assert stage.lr_scale["output"] == 1.0
    loss = made.loss(
        made.encode(batch, replace(ALIGN, stage="words")), batch, replace(ALIGN, stage="words")
    )
    logits = tower(changed, lengths).tokens[0, -2] @ made.output.weight.T
    torch.testing.assert_close(loss.total, F.cross_entropy(logits[None], ids[:, -1]))


def tokens_of(ids, original, lengths):
    """A batch of one text whose changed ids are marked."""
    marks = torch.where(ids == original, -1, original)
    return Batch(
        keys=("0",), texts={"main": Tokens(ids[:, None], lengths[:, None], marks[:, None])}
    )


# ---- from the world to a number


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """A run of few steps."""
    out = tmp_path_factory.mktemp("runs") / "aligned"
    settings = resolve(
        "renalclip",
        {"train": "kidneys:count=48:slices=8:size=16"},
        image_tower=TOWER,
        text_tower=WORDS,
        embed_dim=16,
        recipe={"steps": 2, "batch_size": 16},
        options={"quiet": True},
    )
    run(settings, out)
    return out


def tuned(aligned, out, preset):
    data = {"train": "kidneys:count=48:slices=8:size=16"}
    settings = resolve(
        "renalclip",
        data,
        preset=preset,
        init=str(aligned),
        recipe={"steps": 2, "batch_size": 8},
        options={"quiet": True},
    )
    run(settings, out)
    return load(out)


TEST = "kidneys:count=40:split=test:slices=8:size=16:missing=0.0"


def test_a_run_embeds_volumes_and_reports_for_any_suite(aligned):
    model = load(aligned)
    source = open_source(TEST)
    found = evaluate(model, source, ["retrieval", "zeroshot"], label="kind", combine="max")
    assert found["retrieval"]["n"] == 40
    assert found["zeroshot"]["classes"] == 3
    probe = evaluate(model, source, ["probe"], label="side", train=TEST.replace("test", "val"))
    assert probe["probe"]["n_train"] == 40
    model.set_classes(("cyst", "solid mass"), ("a {}",))
    volume = source[0].images["main"].volume()
    assert model.class_logits([volume]).shape == (1, 2)


def test_survival_predicts_risks_of_those_that_are_known(aligned, tmp_path):
    model = tuned(aligned, tmp_path / "run", "survival")
    source = open_source(TEST)
    known = [at for at in range(40) if source[at].labels["recurrence_event"] >= 0]
    labels = {"time": "recurrence_time", "event": "recurrence_event"}
    found = evaluate(model, source, ["survival"], **labels)["survival"]
    assert found["n"] == len(known)
    images = [source[at].images["main"] for at in known]
    risks = model.predict(images)["risk"]
    assert risks.shape == (len(known),)
    assert model.validation.settings == labels
    with pytest.raises(InputError, match="no volume"):
        model.predict([])


def test_a_diagnosis_is_a_classifier_of_its_classes(aligned, tmp_path):
    model = tuned(aligned, tmp_path / "run", "diagnosis")
    assert model.classes == ("benign", "malignant")
    found = evaluate(model, open_source(TEST), ["zeroshot"], label="malignant")["zeroshot"]
    assert found["classes"] == 2
    with pytest.raises(InputError, match="not 'left'"):
        model.set_classes(("left", "right"))
    source = open_source(TEST.replace("count=40", "count=12"))
    images = [source[at].images["main"] for at in range(3)]
    logits = model.class_logits(images)
    found = model.predict(images)
    assert list(found) == ["benign", "malignant"]
    torch.testing.assert_close(found["malignant"], (logits[:, 1] - logits[:, 0]).sigmoid())
    # late fusion: the mean over the phases that a sample has
    roles = ("arterial", "venous")
    fused, _ = predict([model, model], source, roles=roles)
    for each in fused:
        phases = source[list(source.keys()).index(each.key)].images
        own = [model.predict([phases[role]])["malignant"] for role in roles if role in phases]
        assert each.numbers["malignant"] == pytest.approx(float(sum(own)) / len(own), abs=1e-5)


def test_tasks_train_the_image_tower_and_the_head_alone(aligned, tmp_path):
    model = tuned(aligned, tmp_path / "run", "survival")
    before = load(aligned).encoder
    for name, value in model.encoder.state_dict().items():
        same = torch.equal(value, before.state_dict()[name])
        assert same != name.startswith("image."), name


def test_what_does_not_fit_is_refused_before_training(words):
    source = open_source("kidneys:count=6")
    with pytest.raises(InputError, match="knowledge stage"):
        method(words, knowledge=("images",))
    with pytest.raises(InputError, match="stage in recipes"):
        method(words, recipes={"train": {}})
    with pytest.raises(InputError, match="no attribute"):
        method(words, attributes=())
    with pytest.raises(InputError, match="reads volumes"):
        make_method(RenalCLIP, text=WORDS, embed_dim=16, words=words)
    made = method(words, attributes=("death_time",))
    with pytest.raises(InputError, match="has 0 classes"):
        made.setup({"train": source})
    with pytest.raises(InputError, match="adapts a model"):
        resolve("renalclip", {"train": "kidneys"}, preset="survival")
    made = method(words, patient="person")
    with pytest.raises(InputError, match=r"labels\.person"):
        made.samples(made.stages()[-1], "train", source)


def test_a_fresh_make_is_told_from_a_given_model(aligned):
    assert Make(image=TOWER, text=WORDS, embed_dim=16, tokenizer=None).fresh
    assert not Make.of(load(aligned)).fresh
