"""ALBEF: the losses against a slow reference, the sheet's numbers, what is drawn, queued and copied,
and what the delivered model scores and shows."""

import copy
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from tests.evaluation.helpers import Rows
from tests.factories import AT, IMAGE, make_method, random_images, small_make
from tests.methods.fuse.helpers import batch as plain_batch
from torch.nn.functional import normalize
from torchvision.transforms.functional import to_pil_image

from diptych.data.batch import Images, Tokens
from diptych.data.sample import BadSample, Field, Sample, Text
from diptych.data.tokenizers import build, pad_batch
from diptych.data.views import ImageView
from diptych.errors import InputError
from diptych.methods.base import At
from diptych.methods.fuse.albef import ALBEF
from diptych.methods.fuse.albef.answers import AnswerView
from diptych.methods.fuse.albef.losses import distilled, positives
from diptych.methods.fuse.albef.model import MultimodalEncoder, places_of
from diptych.methods.make import Make
from diptych.objectives import info_nce
from diptych.rng import generator
from diptych.testing import Toy
from diptych.towers.nn.parts import Momentum

TEXT = "text:width=32:depth=2:heads=2:causal=false:pooling=first"
LATE = At(9, 10, 0, 0)  # alpha has risen


def words():
    toy = Toy(128)
    return build(
        "bpe:vocab_size=320:context=24:special=mask", [toy[i].captions()[0] for i in range(128)]
    )


def method(**config):
    """A small method whose momentum copy is another model, in float64."""
    settings = {"augment": None, "queue": 6, **config}
    made = make_method(ALBEF, make=small_make(IMAGE, TEXT, words=words()), **settings).double()
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn_like(value) * 0.05)
    return made.eval()


def batch(count=3):
    """Texts of 7, 4, 5, … ids, of which the third of each is masked."""
    given = plain_batch(count)
    tokens = given.text
    marks = torch.full_like(tokens.ids, -1)
    marks[..., 2] = tokens.ids[..., 2]
    ids = tokens.ids.clone()
    ids[..., 2] = 3
    return replace(given, texts={"main": replace(tokens, ids=ids, marks=marks)})


def losses(made, given, at=LATE):
    """The step's losses as the engine computes them, on one rank."""
    features = made.encode(given, at)
    if made.exchanged:
        features |= made.among(features, slice(0, len(given)), given, at)
    return made.loss(features, given, at)


# ---- a slow reference, one pair and one word after another


def reference(made, given, alpha):
    """The losses, read from unpadded texts; negatives are those that the method draws."""
    encoder, slow = made.model.encoder, made.slow.module
    B = len(given)
    read, slow_read, image, slow_image, masked, slow_masked = [], [], [], [], [], []
    for row in range(B):
        n = int(given.text.lengths[row, 0])
        ids, marks = given.text.ids[row, :, :n], given.text.marks[row, :, :n]
        plain = torch.where(marks >= 0, marks, ids)
        for side, texts, images, hidden in (
            (encoder, read, image, masked),
            (slow, slow_read, slow_image, slow_masked),
        ):
            texts.append(side.encode_text(plain, torch.tensor([n])))
            images.append(side.encode_image(given.image.pixels[row]))
            hidden.append(side.encode_text(ids, torch.tensor([n])).tokens)
    unit = lambda x: x / x.square().sum().sqrt()  # noqa: E731
    x = [unit(encoder.project_image(each.pooled[0])) for each in image]
    t = [unit(encoder.project_text(each.tokens[0, 0])) for each in read]
    slow_x = [unit(slow.project_image(each.pooled[0])) for each in slow_image]
    slow_t = [unit(slow.project_text(each.tokens[0, 0])) for each in slow_read]
    bank_x, bank_t = [*slow_x, *made.queues["image"].rows], [*slow_t, *made.queues["text"].rows]
    tau = made.model.encoder.logit_scale.value

    def softmax(values):
        total = sum(math.exp(v) for v in values)
        return [math.exp(v) / total for v in values]

    def cross_entropy(query, teacher, bank, i):
        scores = [float(query @ key / tau) for key in bank]
        soft = softmax([float(teacher @ key / tau) for key in bank])
        target = [alpha * share + (1 - alpha) * (j == i) for j, share in enumerate(soft)]
        log_total = math.log(sum(math.exp(s) for s in scores))
        return -sum(y * (s - log_total) for y, s in zip(target, scores, strict=True))

    contrastive = sum(
        cross_entropy(x[i], slow_x[i], bank_t, i) + cross_entropy(t[i], slow_t[i], bank_x, i)
        for i in range(B)
    ) / (2 * B)  # fmt: skip
    multimodal, slow_multimodal = made.model.multimodal, made.slow_multimodal.module

    def fused(part, tokens, picture):
        return part(tokens, torch.tensor([tokens.shape[1]]), picture.tokens)[0]

    def match(i, j):
        first = fused(multimodal, read[j].tokens, image[i])[0]
        scores = [float(w @ first + b) for w, b in zip(*made.model.match_head.parameters(), strict=True)]  # fmt: skip
        return softmax(scores)

    features = made.encode(given, LATE)
    image_of, text_of = made._negatives(features, made._ids(given), LATE)
    pairs = [(i, i, 1) for i in range(B)]
    pairs += [(int(image_of[j]), j, 0) for j in range(B)] + [(i, int(text_of[i]), 0) for i in range(B)]  # fmt: skip
    assert all(i != j for i, j, label in pairs if not label)
    matching = sum(-math.log(match(i, j)[label]) for i, j, label in pairs) / (3 * B)
    hard = soft = count = 0
    for row in range(B):
        for at, word in enumerate(given.text.marks[row, 0].tolist()):
            if word < 0:
                continue
            z, teacher = (
                part.words(fused(part, tokens[row], pictures[row])[at], side.text.table.weight)
                for part, side, tokens, pictures in (
                    (multimodal, encoder, masked, image),
                    (slow_multimodal, slow, slow_masked, slow_image),
                )
            )
            log_p = [float(v) - math.log(sum(math.exp(u) for u in z.tolist())) for v in z]
            hard -= log_p[word]
            soft -= sum(q * v for q, v in zip(softmax(teacher.tolist()), log_p, strict=True))
            count += 1
    of_words = ((1 - alpha) * hard + alpha * soft) / count
    return {"contrastive": contrastive, "matching": matching, "words": of_words}


@torch.no_grad()
def test_losses_are_those_of_a_slow_reference():
    made, given = method(), batch()
    expected = reference(made, given, 0.4)
    for name, value in losses(made, given).terms.items():
        assert float(value) == pytest.approx(expected[name], abs=1e-9), name


# ---- the sheet's numbers


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.0, (0.179979, 0.199651, 0.189815)),
        (0.4, (0.248376, 0.300186, 0.274281)),
        (1.0, (0.350971, 0.450989, 0.400980)),
    ],
)
def test_contrast_has_the_published_values(alpha, expected):
    made = method(queue=2, alpha=alpha, words=0.0)
    rows = lambda *values: normalize(torch.tensor(values, dtype=torch.float64), dim=1)  # noqa: E731
    wide = lambda x: torch.nn.functional.pad(x, (0, 30))  # noqa: E731
    made.model.encoder.logit_scale.value.data.fill_(0.07)
    made.queues["image"].rows.copy_(wide(rows([1, 1], [-1, 0.5])))
    made.queues["text"].rows.copy_(wide(rows([0.5, 1], [1, -1])))
    image = wide(torch.eye(2, dtype=torch.float64)).requires_grad_()
    text = wide(rows([1, 0.2], [0.3, 1])).requires_grad_()
    slow = {"image": image.detach(), "text": text.detach()}
    ids = torch.full((2,), -100)
    found, _ = made._contrastive({"image": image, "text": text}, slow, ids, alpha)
    assert float(found.detach()) == pytest.approx(expected[2], abs=1e-6)
    if alpha == 1:  # the teacher is the student: nothing is to be learnt
        assert all(g.abs().max() < 1e-12 for g in torch.autograd.grad(found, (image, text)))
    banks = {side: torch.cat([slow[side], made.queues[side].rows]) for side in slow}
    for query, key, value in (("image", "text", expected[0]), ("text", "image", expected[1])):
        logits = slow[query] @ banks[key].T / 0.07
        target = distilled(logits, positives(ids, torch.full((2,), -100)), alpha)
        loss = -(target * logits.log_softmax(1)).sum(1).mean()
        assert float(loss) == pytest.approx(value, abs=1e-6)


def test_without_queue_and_teacher_it_is_info_nce_of_queries_alone():
    made, given = method(queue=0, alpha=0.0, momentum=0.0, words=0.0, matching=0.0), batch()
    made.after_step({}, AT)
    features = made.encode(given, AT)
    found = made.loss(features, given, AT).terms["contrastive"]
    image, text = features["image"], features["text"]
    other = info_nce(image, text, made.model.encoder.logit_scale())
    assert float(found.detach()) == pytest.approx(float(other.detach()), abs=1e-12)
    of_keys, of_pairs = (torch.autograd.grad(x, image, retain_graph=True)[0] for x in (found, other))  # fmt: skip
    assert (of_keys - of_pairs).norm() > 0.1 * of_pairs.norm()


def test_a_thousand_steps_of_the_copy():
    online = torch.nn.Linear(1, 1, bias=False).double()
    online.weight.data.fill_(0)
    slow = Momentum(online, 0.995)
    online.weight.data.fill_(1)
    for _ in range(1000):
        slow.update()
    assert float(slow.module.weight) == pytest.approx(0.993346, abs=1e-6)  # type: ignore[arg-type]


# ---- what is drawn, queued and copied


def test_images_of_one_id_are_positives_and_no_negatives():
    made, given = method(same="label", words=0.0), batch(4)
    given = replace(given, fields={"same": torch.tensor([5, 7, 5, 2])})
    features = made.encode(given, LATE)
    ids = made._ids(given)
    for seed in range(20):
        for found in made._negatives(features, ids, replace(LATE, seed=seed)):
            assert (ids[found] != ids).all()
    made.after_step(losses(made, given).carry, LATE)
    right = positives(ids, made._queued()["ids"][:, 0])
    assert right[1].nonzero().flatten().tolist() == [1, 5]  # itself, and in the queue
    assert right[0].nonzero().flatten().tolist() == [0, 2, 4, 6]
    same = replace(given, fields={"same": torch.full((4,), 5)})
    with pytest.raises(InputError, match="of one image, by 'label'"):
        losses(made, same)


def test_each_caption_of_an_image_is_trained_on():
    made = method(same="image")
    several = Rows([Sample(key=key, source="s", texts=[Text(text=text) for text in texts])
                    for key, texts in (("a", ["one", "two"]), ("b", ["three"]))])  # fmt: skip
    [stage] = made.stages()
    view = made.views(stage)[2]
    for source, origins in ((several, [0, 0, 1]), (Toy(3), [0, 1, 2])):
        found = made.samples(stage, "train", source)
        assert [view(found[i], generator(0), 0.0)["fields.same"] for i in range(3)] == origins
    assert method().samples(stage, "train", several) is several


def test_queues_and_copies_change_after_the_step_alone():
    made, given = method(momentum=0.5), batch()
    before = {name: queue.rows.clone() for name, queue in made.queues.items()}
    online = made.model.multimodal.words.dense.weight
    slow = made.slow_multimodal.module.words.dense.weight
    expected = (slow + online) / 2
    found = losses(made, given)
    assert all(torch.equal(queue.rows, before[name]) for name, queue in made.queues.items())
    made.after_step(found.carry, LATE)
    features = made.encode(given, LATE)
    assert torch.equal(made.queues["text"].rows[:3], found.carry["text"])
    assert torch.equal(made.queues["text"].rows[3:], before["text"][3:])
    assert not torch.equal(features["text_slow"], found.carry["text"])  # the copy moved
    assert torch.allclose(made.slow_multimodal.module.words.dense.weight, expected)
    assert not any("match_head" in name for name, _ in made.slow.named_parameters())


@torch.no_grad()
def test_a_rank_computes_its_own_pairs():
    made, given = method(), batch(4)
    features = made.encode(given, LATE)
    whole = made.among(features, slice(0, 4), given, LATE)["matches"]
    assert whole.shape == (4, 3, 2)
    calls = []
    inner = made.model.match_logits
    made.model.match_logits = lambda *given: calls.append(len(given[0])) or inner(*given)  # type: ignore[method-assign]
    parts = [made.among(features, slice(*ends), given, LATE)["matches"] for ends in ((0, 1), (1, 4))]  # fmt: skip
    assert calls == [3, 9]
    assert torch.allclose(torch.cat(parts), whole)


def test_alpha_rises_in_the_first_epoch():
    made, given = method(ramp=0.5), batch()
    at = [losses(made, given, At(step, 20, 0, 0)).logged["alpha"] for step in (0, 5, 10, 19)]
    assert at == pytest.approx([0, 0.2, 0.4, 0.4])


def test_bad_input():
    with pytest.raises(InputError, match="a batch of one pair has no other"):
        losses(method(), batch(1))
    with pytest.raises(InputError, match="negatives=random"):
        method(contrastive=0.0)
    made = make_method(ALBEF, image=IMAGE, text=TEXT)
    with pytest.raises(InputError, match="special=mask"):
        made.views(made.stages()[0])
    with pytest.raises(InputError, match="a tower for both"):
        make_method(ALBEF, text="none", image=IMAGE)


# ---- the delivered model


@pytest.fixture(scope="module")
def model():
    made = method()
    return made.deliver().to_model(made.make.tokenizer, made.model.preprocess, "mine")


CAPTIONS = ["a red circle on the left", "a blue bar on the top", "a red circle on the left"]


def test_matches_are_those_of_pairs_one_by_one(model):
    images = random_images(2)[[0, 0, 1]]
    found = model.match(images, CAPTIONS)
    alone = [model.match(images[i : i + 1], CAPTIONS[i : i + 1]) for i in range(3)]
    assert torch.allclose(found, torch.cat(alone), atol=1e-5)
    assert not torch.allclose(found[0], found[2], atol=1e-4)
    shares = model.match(images, CAPTIONS, probability=True)
    assert torch.allclose(shares, model.match_logits(images, CAPTIONS).softmax(1)[:, 1])
    with pytest.raises(InputError, match="2 images came with 3 texts"):
        model.match(images[:2], CAPTIONS)


def test_maps_are_the_gradients_of_the_score(model):
    """Against finite differences of the attention weights of the last layer."""
    images, layer = random_images(1), model.delivered.multimodal.transformer.layers[1]
    heat = model.heat(images, CAPTIONS[:2])
    assert heat.shape == (1, 2, 2, 2)
    assert torch.allclose(heat[:, 1:], model.heat(images, CAPTIONS[1]), atol=1e-6)
    weights = []

    def attend(module, args, _, __):
        if not weights:
            weights.append(module.weights(*args))
        values = module.v(args[1]).unflatten(-1, (2, -1)).transpose(1, 2)
        return module.out((weights[0] @ values).transpose(1, 2).flatten(2))

    handle = layer.cross.register_forward_hook(attend, with_kwargs=True)
    with torch.no_grad():
        base = float(model.match_logits(images, CAPTIONS[1:2])[0, 1])
        (given,) = weights
        expected = torch.zeros(given.shape[-1], dtype=given.dtype)
        for place in torch.cartesian_prod(*map(torch.arange, given.shape[1:])).tolist():
            changed = given.clone()
            changed[0, *place] += 1e-5
            weights[0] = changed
            slope = (float(model.match_logits(images, CAPTIONS[1:2])[0, 1]) - base) / 1e-5
            expected[place[2]] += float(given[0, *place]) * max(slope, 0)
    handle.remove()
    expected /= given.shape[1] * given.shape[2]
    patches = expected[-4:].view(2, 2)
    assert torch.allclose(heat[0, 1], patches, atol=1e-3 * float(patches.max()))


def test_maps_of_a_word(model):
    words = model.tokenizer
    [row] = words.encode(["a red circle, a red bar"])
    assert words.decode([row[at] for at in places_of("Red", row, words)]).split() == ["red", "red"]
    image = random_images(1)
    assert model.heat(image, CAPTIONS[0], word="left").shape == (1, 1, 2, 2)
    with pytest.raises(InputError, match="has no word 'green'"):
        model.heat(image, CAPTIONS[0], word="green")


# ---- answers to questions

ASKED = [("what colour?", "red"), ("which shape?", "a bar"), ("where?", "on the left")]


def asked(rows):
    """A batch of questions and answers about random images."""
    made = words()
    texts = {}
    for name, part in (("question", 0), ("answer", 1)):
        ids, lengths = pad_batch(made.encode([row[part] for row in rows]), made)
        texts[name] = Tokens(ids[:, None], lengths[:, None])
    return replace(plain_batch(len(rows)), texts=texts)


@torch.no_grad()
def test_answers_have_the_loss_of_a_slow_reference():
    made, given = method(task="answers"), asked(ASKED)
    expected = 0.0
    for row in range(3):
        totals = []
        n, m = (int(given.texts[name].lengths[row, 0]) for name in ("question", "answer"))
        for part in (made.model, made.slow.module):
            read = part.encoder.encode_text(
                given.texts["question"].ids[row, :, :n], torch.tensor([n])
            )
            image = part.encoder.encode_image(given.image.pixels[row])
            memory = part.multimodal(read.tokens, torch.tensor([n]), image.tokens)
            ids = given.texts["answer"].ids[row, :, :m]
            tower = part.lm.tower
            hidden = [  # each prefix by itself
                tower.norm(tower.blocks(tower.embed(ids[:, :at]), memory=memory))[0, -1]
                for at in range(1, m)
            ]
            totals.append([torch.log_softmax(tower.table.weight @ h, 0) for h in hidden])
        for own, teacher, word in zip(*totals, ids[0, 1:].tolist(), strict=True):
            expected -= (0.6 * own[word] + 0.4 * (teacher.exp() * own).sum()) / 3
    found = made.loss(made.encode(given, LATE), given, LATE).terms["answers"]
    assert float(found) == pytest.approx(float(expected), abs=1e-9)


def test_the_decoder_starts_as_the_multimodal_encoder_of_a_run_on_pairs():
    pairs = method()
    given = pairs.deliver().to_model(pairs.make.tokenizer, pairs.model.preprocess, "pairs")
    model = make_method(ALBEF, make=Make.of(given), task="answers").model
    assert torch.equal(model.multimodal.norm.weight, pairs.model.multimodal.norm.weight.float())
    decoder = model.lm.tower.state_dict()
    for name, value in pairs.model.multimodal.transformer.state_dict().items():
        assert torch.equal(decoder[f"transformer.{name}"], value.float()), name
    assert torch.equal(decoder["table.weight"], pairs.model.encoder.text.table.weight.float())
    with pytest.raises(InputError, match="give the options that it was trained with"):
        make_method(ALBEF, make=Make.of(given), task="answers", depth=1)


def test_answers_are_drawn_as_often_as_people_gave_them():
    said = ["two", "Two", "three", "two"]
    texts = [Text(text="how many?", role="question")]
    texts += [Text(text=text, role="answer") for text in said]
    sample = Sample(key="a", source="s", texts=texts)
    made = words()
    view = AnswerView(tokenizer=made)
    rows = [view(sample, generator(seed), 0.0)["texts.answer"][0] for seed in range(400)]
    found = Counter(made.decode(row[1:-1]) for row in rows)
    assert set(found) == {"two", "three"}
    assert found["two"] / 400 == pytest.approx(0.75, abs=0.08)
    with pytest.raises(BadSample, match="no question with an answer"):
        view(replace(sample, texts=()), generator(0), 0.0)


def test_the_likeliest_of_a_list_is_given():
    made = method(task="answers")
    model = made.deliver().to_model(made.make.tokenizer, made.model.image.preprocess, "mine")
    images, questions = random_images(2), ["What colour?", "where is it?"]
    listed = ["red", "a bar", "on the left", "on the right", "a blue bar", "red"]
    scores = torch.stack([model.log_prob(images, [text] * 2, questions) for text in listed], 1)
    found = model.generate(images, questions, among=listed)
    assert found == [listed[at] for at in scores.argmax(1).tolist()]
    starts = [model.generate(images, questions, among=listed, first=k)[0] for k in (1, 5)]
    assert starts[1] == found[0]
    assert all(isinstance(text, str) for text in model.generate(images, questions, max_tokens=4))
    for bad in ({"among": [" "]}, {"among": []}):
        with pytest.raises(InputError, match="list of answers is empty"):
            model.generate(images, questions, **bad)
    with pytest.raises(InputError, match="ask one"):
        model.generate(images)


# ---- a few classes


@torch.no_grad()
def test_classes_have_the_loss_of_the_sheet_and_are_given():
    made, given = method(task="classes"), asked(ASKED)
    said = ["Yes", "no", "yes", "maybe", "no", "yes"]
    texts = [
        [Text(text="is it red?", role="question"), Text(text=text, role="answer")] for text in said
    ]
    source = Rows([Sample(key=str(at), source="s", texts=each) for at, each in enumerate(texts)],
                  fields={"texts.question": Field(kind="text"), "texts.answer": Field(kind="text")})  # fmt: skip
    made.setup({"train": source})
    assert made.model.classes == ("yes", "no", "maybe")
    view = made.views(made.stages()[0])[1]
    found = [view(source[at], generator(0), None)["fields.class"] for at in range(6)]
    assert found == [0, 1, 0, 2, 1, 0]
    with pytest.raises(BadSample, match="no class"):
        view(replace(source[0], texts=[texts[0][0], Text(text="blue", role="answer")]), generator(0), None)  # fmt: skip
    made = made.double().eval()
    for value in made.slow.parameters():
        value.add_(0.05 * torch.randn_like(value))
    given = replace(given, fields={"class": torch.tensor([0, 2, 1])})
    expected = 0.0
    for row, right in enumerate([0, 2, 1]):
        n = int(given.texts["question"].lengths[row, 0])
        ids, totals = given.texts["question"].ids[row, :, :n], []
        for part in (made.model, made.slow.module):
            read = part.encoder.encode_text(ids, torch.tensor([n])).tokens
            image = part.encoder.encode_image(given.image.pixels[row]).tokens
            first = part.multimodal(read, torch.tensor([n]), image)[0, 0]
            hidden = (part.head[0].weight @ first + part.head[0].bias).clamp(min=0)
            totals.append(torch.log_softmax(part.head[2].weight @ hidden + part.head[2].bias, 0))
        expected -= (0.6 * totals[0][right] + 0.4 * (totals[1].exp() * totals[0]).sum()) / 3
    loss = made.loss(made.encode(given, LATE), given, LATE).terms["classes"]
    assert float(loss) == pytest.approx(float(expected), abs=1e-9)
    model = made.deliver().to_model(made.make.tokenizer, made.model.preprocess, "mine")
    answers = model.generate(random_images(2), ["is it red?", "Is it blue?"])
    assert set(answers) <= set(model.answers)
    with pytest.raises(InputError, match="writes nothing; leave out strategy"):
        model.generate(random_images(1), ["is it?"], strategy="beam")
    with pytest.raises(InputError, match="1 different answers"):
        made.setup({"train": Rows([source[0]], fields=source.fields)})


# ---- statements about two images


def statements(count):
    """A batch of statements about two random images each."""
    given = asked([(("both are red", "one is red")[at % 2], "true") for at in range(count)])
    images = {**given.images, "page2": Images(given.image.pixels.roll(1, 0))}
    return replace(given, images=images, fields={"class": torch.arange(count) % 2})


def test_each_block_of_a_layer_reads_its_own_image_with_shared_keys_and_values():
    text = small_make(IMAGE, TEXT, words=words()).text()
    made = MultimodalEncoder(text, 48, images=2).double()
    tokens, lengths = torch.randn(2, 5, 32).double(), torch.tensor([5, 3])
    images = [torch.randn(2, n, 48).double() for n in (4, 7)]
    mask = torch.arange(5) < lengths[:, None]
    layers, expected = made.transformer.layers, tokens
    assert len(layers) == 4
    for at, block in enumerate(layers):
        own = copy.deepcopy(block)
        own.cross.k, own.cross.v = layers[at - at % 2].cross.k, layers[at - at % 2].cross.v
        expected = own(expected, mask=mask, memory=images[at % 2])
    found = made(tokens, lengths, *images)
    assert torch.allclose(found, made.norm(expected), atol=1e-12)
    assert not torch.allclose(found, made(tokens, lengths, *images[::-1]), atol=1e-3)
    single = MultimodalEncoder(text, 48).double()
    blocks = 2 * sum(p.numel() for p in single.transformer.parameters())
    assert sum(p.numel() for p in made.transformer.parameters()) == blocks - 2 * 2 * (48 + 1) * 32
    made.load_state_dict(made.repeated(single.state_dict()))
    for at, block in enumerate(layers):
        other = single.transformer.layers[at // 2]
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in block.state_dict().items())
        assert torch.equal(block.cross.k(images[0]), other.cross.k(images[0]))


def test_a_statement_is_judged_from_both_images():
    pairs = method()
    given = pairs.deliver().to_model(pairs.make.tokenizer, pairs.model.preprocess, "pairs")
    assigned = make_method(ALBEF, make=Make.of(given), task="assignment")
    block = assigned.model.multimodal.transformer.layers[3]
    pretrained = pairs.model.multimodal.transformer.layers[1]
    assert torch.equal(block.mlp.fc1.weight, pretrained.mlp.fc1.weight.float())
    between = assigned.deliver().to_model(pairs.make.tokenizer, pairs.model.preprocess, "between")
    made = make_method(
        ALBEF, make=Make.of(between), task="classes", images=2, augment=None
    ).double()
    made.model.set_classes(("false", "true"))
    made.slow = Momentum(made.model.double(), 0.5)
    assert torch.equal(
        made.model.multimodal.transformer.layers[3].mlp.fc1.weight, block.mlp.fc1.weight
    )
    batch = statements(3)
    features = made.eval().encode(batch, LATE)
    ids, lengths = batch.texts["question"].flat
    for row in range(3):
        both = [batch.images[role].flat[row : row + 1] for role in ("main", "page2")]
        seen = [made.model.encoder.encode_image(pixels).tokens for pixels in both]
        n = lengths[row : row + 1]
        read = made.model.encoder.encode_text(ids[row : row + 1, : int(n)], n).tokens
        expected = made.model.head(made.model.multimodal(read, n, *seen)[:, 0])
        assert torch.allclose(features["logits"][row], expected[0], atol=1e-9)
    model = made.float().deliver().to_model(pairs.make.tokenizer, made.model.preprocess, "judged")
    pixels = random_images(4).unflatten(0, (2, 2))
    listed = [tuple(map(to_pil_image, both)) for both in pixels]
    assert model.images_read == 2
    assert set(model.generate(listed, ["both are red"] * 2)) <= {"false", "true"}
    with pytest.raises(InputError, match="reads 2 images with a text, and 1 were given"):
        model.generate(pixels[:, 0], ["both are red"] * 2)
    assert made.model.reads == ("images.main", "images.page2", "texts.question", "texts.answer")


def test_a_text_is_assigned_to_one_of_its_images_or_to_none():
    made, given = method(task="assignment"), plain_batch(5)
    vectors = normalize(torch.randn(5, 32, generator=torch.Generator().manual_seed(1)).double())
    weights = (vectors @ vectors.T / 0.07).softmax(1) + 1e-4
    places, first = Counter(), Counter()
    for seed in range(300):
        images, place = made._candidates(vectors, replace(LATE, seed=seed))
        for row, (candidates, at) in enumerate(zip(images.tolist(), place.tolist(), strict=True)):
            assert len(set(candidates)) == 2
            assert [n for n, image in enumerate(candidates) if image == row] == [at] * (at < 2)
        places.update(place.tolist())
        others = [image for image in images[0].tolist() if image]
        first[others[0]] += 1
    assert all(count / 1500 == pytest.approx(1 / 3, abs=0.04) for count in places.values())
    expected = weights[0].clone()
    expected[0] = 0
    for image, share in enumerate((expected / expected.sum()).tolist()):
        assert first[image] / 300 == pytest.approx(share, abs=0.09)
    features = made.encode(given, LATE)
    whole = made.among(features, slice(0, 5), given, LATE)["logits"]
    parts = [made.among(features, slice(*ends), given, LATE)["logits"] for ends in ((0, 2), (2, 5))]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-9)
    images, place = made._candidates(features["image"], LATE)
    loss = 0.0
    for row in range(5):
        n = given.text.lengths[row]
        read = made.model.encoder.encode_text(given.text.ids[row, :, : int(n)], n).tokens
        seen = [
            made.model.encoder.encode_image(given.image.pixels[at]).tokens for at in images[row]
        ]
        logits = made.head(made.model.multimodal(read, n, *seen)[0, 0])
        loss -= float(logits.log_softmax(0)[place[row]].detach()) / 5
    found = made.loss(features | {"logits": whole}, given, LATE).terms["assignment"]
    assert float(found.detach()) == pytest.approx(loss, abs=1e-9)
    assert made.stages()[0].min_batch == 3
    with pytest.raises(InputError, match="one of several images"):
        method(task="assignment", images=1)
    with pytest.raises(InputError, match="is about one image"):
        method(images=2)


def test_paper_is_as_large_as_published():
    """ViT-B/16 and BERT-base with six layers of cross-attention: 85.8 and 123.7 million."""
    chosen = ALBEF.preset("paper")
    with torch.device("meta"):
        make = Make(
            image=chosen.image,
            text=chosen.text,
            embed_dim=chosen.embed_dim,
            tokenizer=words(),
        )
        made = ALBEF.of(ALBEF.configure({**chosen.config, "queue": 0}), make)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert round(count(made.model.encoder.image) / 1e6, 1) == 85.8
    V, L, W = made.make.tokenizer.vocab_size, made.make.tokenizer.context, 768
    own = count(made.model.encoder.text) + count(made.model.multimodal)
    # with BERT's vocabulary, its 512 places, and the bias of each word
    assert round((own + (30_522 - V) * (W + 1) + (512 - L) * W) / 1e6, 1) == 123.7


@pytest.mark.parametrize("task", ["pairs", "answers", "classes", "assignment"])
def test_a_run_is_continued_at_a_higher_resolution(task):
    settings = {"augment": None, "queue": 6, "task": task}
    make = small_make(IMAGE, TEXT, words=words())
    made = make_method(ALBEF, make=make, size=48, **settings)
    tower = made.model.encoder.image
    view = next(each for each in made.views(made.stages()[0]) if isinstance(each, ImageView))
    assert tower.image_size == view.preprocess.size == 48
    assert tower(torch.zeros(1, 3, 48, 48)).tokens.shape[1] == tower.config.cls + 9
    if task == "pairs":
        assert made.slow.module.image.image_size == 48
    with pytest.raises(InputError, match="method.size is 47 pixels"):
        make_method(ALBEF, make=make, size=47, **settings)
