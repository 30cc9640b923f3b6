"""BioViL: its stages and what they read, the mean behind the projector, and what it delivers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.factories import make_method, small_make, tokenizer
from torch.nn.functional import normalize

from diptych.data.loader import Loader
from diptych.data.sample import Sample, Text
from diptych.data.tokenizers import build
from diptych.data.views import look
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.methods.base import At
from diptych.methods.domain.biovil import STAGES, BioViL, matched
from diptych.methods.make import NO_TOWER, Make
from diptych.methods.store import to_model
from diptych.objectives import info_nce, nt_xent
from diptych.testing import Toy

WORDS = build(
    "bpe:vocab_size=320:context=24:special=mask",
    [text for index in range(128) for text in Toy(128)[index].captions()],
)
CONV = "conv:image_size=32:widths=(16,32):depths=(1,1)"
FIRST = "text:width=32:depth=1:heads=2:causal=false:pooling=first"
REPORT = ("Clear lungs. No effusion. A small nodule.", "Nodule. No pneumonia.")
FIELDS = ("images.main", "texts.findings", "texts.impression")


def method(**config) -> BioViL:
    config = {"projector": "mlp:hidden=16:last_norm=scaled", "augment": None, **config}
    return make_method(BioViL, image=CONV, text=FIRST, words=WORDS, **config).double()


def stage_of(made, name):
    return next(stage for stage in made.stages() if stage.name == name)


def batch_of(made, name, source=None):
    stage = stage_of(made, name)
    source = source or Toy(8, FIELDS)
    views = made.views(stage, stage.streams[0])
    return next(Loader(source, views, stage.plan, 4, steps=1).epoch(0))


def losses(made, name, batch):
    at = At(0, 10, 0, 0, name)
    return made.loss(made.encode(batch, at), batch, at)


class Lacking(Wrapped):
    """Every other report lacks its findings, or its impression."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return replace(sample, texts=sample.texts[index % 2 : index % 2 + 1])


def test_a_stage_reads_the_first_of_its_streams_that_is_given():
    made = method()
    assert [each.name for each in made.stages()] == list(STAGES)
    assert [each.streams for each in made.stages()] == [
        ("texts",),
        ("reports",),
        ("images",),
        ("train",),
    ]
    made.setup({"train": Toy(4), "reports": Toy(4)})
    assert [each.streams for each in made.stages()] == [
        ("reports",),
        ("reports",),
        ("train",),
        ("train",),
    ]
    only = method(stages=("joint",), recipes={"joint": {"lr": 0.5}})
    only.setup({})
    assert [(each.streams, each.recipe) for each in only.stages()] == [(("train",), {"lr": 0.5})]
    assert made.needs(stage_of(made, "joint")) == ("images.main", "texts.impression")
    assert method(texts="long").needs(made.stages()[0], "texts") == ("texts.long",)


def test_each_stage_has_its_losses_and_weights():
    made = method(matching=2.0, sections_masking=0.25, alignment=0.75, masking=0.5)
    batch = batch_of(made, "sections")
    found = made.encode(batch, At(0, 1, 0, 0, "sections"))
    terms = losses(made, "sections", batch).terms
    words = found["word_loss"].sum() / found["words"].sum()
    torch.testing.assert_close(terms["words"], 0.25 * words)
    pairs = matched(found["findings"], found["impression"], batch.fields["both"], 0.5)
    torch.testing.assert_close(terms["matching"], 2 * pairs)
    batch = batch_of(made, "joint")
    found = made.encode(batch, At(0, 1, 0, 0, "joint"))
    terms = losses(made, "joint", batch).terms
    assert set(terms) == {"alignment", "words"}
    half = info_nce(found["image"], found["text"], 2.0)
    torch.testing.assert_close(terms["alignment"], 0.75 * 2 * half)
    assert set(losses(method(local=1.0), "joint", batch).terms) == {"alignment", "words", "local"}
    assert set(
        losses(method(masking=0.0), "joint", batch_of(method(masking=0.0), "joint")).terms
    ) == {"alignment"}
    views = losses(made, "images", batch_of(made, "images"))
    assert set(views.terms) == {"nt_xent"}
    assert set(losses(made, "language", batch_of(made, "language", Toy(8))).terms) == {"words"}


def test_views_of_images_are_compared_behind_a_projector():
    made = method(views_tau=0.3)
    batch = batch_of(made, "images")
    found = made.encode(batch, At(0, 1, 0, 0, "images"))["views"]
    one, other = normalize(found, dim=-1).unbind(1)
    torch.testing.assert_close(losses(made, "images", batch).total, nt_xent(one, other, 0.3))


def test_reports_that_lack_a_section_keep_their_masked_words():
    made = method()
    source = Lacking(Toy(8, FIELDS), np.arange(8))
    batch = batch_of(made, "sections", source)
    assert not batch.fields["both"].any()
    found = made.encode(batch, At(0, 1, 0, 0, "sections"))
    assert float(losses(made, "sections", batch).terms["matching"].detach()) == 0
    assert (found["words"] > 0).any()
    # the joint stage reads findings where there is no impression
    joint = batch_of(made, "joint", source)
    assert len(joint) == 4


def report(findings=REPORT[0], impression=REPORT[1]) -> Sample:
    texts = [Text(text=findings, role="findings"), Text(text=impression, role="impression")]
    return Sample(key="a", source="", texts=[each for each in texts if each.text])


def test_sentences_come_in_a_new_order_and_masked_ones_in_the_same():
    made = method(rate=0.0)
    views = made.views(stage_of(made, "sections"), "reports")
    orders = set()
    for position in range(30):
        found = look(report(), views, (0, 0, position), 0.5)
        [shown] = found["texts.findings"]
        [masked] = found["texts.findings_masked"]
        assert list(masked.ids) == list(shown)
        orders.add(tuple(shown))
    assert len(orders) == 6
    [outside] = look(report(), views, (0, 0, 0), None)["texts.findings"]
    assert outside == WORDS.encode([REPORT[0]])[0]
    fixed = method(shuffle=False)
    views = fixed.views(stage_of(fixed, "sections"), "reports")
    assert look(report(), views, (0, 0, 3), 0.5)["texts.findings"] == WORDS.encode([REPORT[0]])


def test_the_impression_is_read_and_the_findings_where_there_is_none():
    made = method(shuffle=False, masking=0.0)
    _, text = made.views(stage_of(made, "joint"))
    for impression, expected in ((REPORT[1], REPORT[1]), ("", REPORT[0])):
        for position in range(5):
            found = look(report(impression=impression), [text], (0, 0, position), 0.5)
            assert found["texts.main"] == WORDS.encode([expected])


def test_the_vector_is_the_mean_behind_the_projector():
    encoder = method().eval().model.encoder
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    encoded = encoder.image(x)
    into, norm, activation, out = encoder.image_projection
    z = encoder.project_image(encoded.patches)
    vectors = encoder.image_vectors(encoded)
    torch.testing.assert_close(vectors, z.mean(1))
    inner = activation(norm(into(encoded.patches.flatten(0, 1)))).unflatten(0, (2, -1))
    torch.testing.assert_close(vectors, out(inner.mean(1)))  # linear behind the activation
    before = out(activation(norm(into(encoded.patches.mean(1)))))
    assert not torch.allclose(vectors, before)
    units = normalize(z, dim=-1).mean(1)
    assert not torch.allclose(normalize(vectors, dim=-1), normalize(units, dim=-1))
    shuffled = replace(encoded, tokens=encoded.tokens[:, torch.randperm(16)])
    torch.testing.assert_close(encoder.image_vectors(shuffled), vectors)
    assert float(encoder.logit_scale()) == 2.0
    assert not any(each.requires_grad for each in encoder.logit_scale.parameters())


def test_masked_words_are_filled_in():
    made = method().float().eval()
    model = to_model(
        made.deliver(), WORDS, made.model.preprocess.to_dict(), name="the test's model"
    )
    [first, second] = model.fill(["a [MASK] circle on the left", "[MASK] [MASK]"], k=3)
    assert [len(each) for each in first] == [3]
    assert [len(each) for each in second] == [3, 3]
    word, share = first[0][0]
    assert word in {WORDS.decode([number]).strip() for number in range(WORDS.vocab_size)}
    assert 0 < share < 1
    with pytest.raises(InputError, match=r"has no \[MASK\]"):
        model.fill("a circle")
    with pytest.raises(InputError, match="and the model reads 22"):
        model.fill("[MASK] " * 30)


def test_a_map_has_the_size_of_the_image():
    from PIL import Image

    made = method().float().eval()
    model = to_model(made.deliver(), WORDS, made.model.preprocess.to_dict(), name="model")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    found = model.similarity_map(image, "a red circle")
    assert found.shape == (50, 70)
    assert found.isnan()[:, :10].all()
    assert found.isnan()[:, 60:].all()
    seen = found[:, 10:60]
    assert float(seen.abs().max()) <= 1
    heat = model.heat([image], "a red circle", exact=True)[0, 0]
    plain = model.similarity_map(image, "a red circle", sigma=0)
    assert set(np.unique(plain[:, 10:60])) == set(np.unique(heat))


def test_texts_alone_make_a_language_model_of_reports():
    made = make_method(
        BioViL, image=NO_TOWER, text=FIRST, words=WORDS, stages=("language", "sections")
    )
    model = to_model(made.deliver(), WORDS, None, name="texts")
    assert model.embed_texts("a red circle").shape == (1, 32)
    assert len(model.fill("a [MASK] circle")[0][0]) == 5
    with pytest.raises(InputError, match="there is no image tower"):
        make_method(BioViL, image=NO_TOWER, text=FIRST, words=WORDS)


def test_the_published_size():
    """ResNet-50 without its classifier 23,508,032, BERT without its pooler 108,891,648, and the heads."""
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    preset = BioViL.presets["paper"]
    with torch.device("meta"):
        made = BioViL(
            BioViL.configure({**preset.config, "stages": ("language", "sections", "joint")}),
            Make(
                image=preset.image,
                text=f"{preset.text}:vocab_size=30522",
                embed_dim=128,
                tokenizer=WORDS,
            ),
        )
        encoder = made.model.encoder
        image = 2048 * 128 + 2 * 128 + 128 * 128 + 128
        text = 768 * 128 + 128 + 2 * 128 + 128 * 128 + 128
        words = 768 * 768 + 768 + 2 * 768 + 30522
        counted = {
            name: sum(each.numel() for each in module.parameters())
            for name, module in (
                ("image", encoder.image_projection),
                ("text", encoder.text_projection),
                ("words", made.model.words),
                ("towers", encoder.image),
                ("bert", encoder.text),
            )
        }
        assert counted == {
            "image": image, "text": text, "words": words, "towers": 23_508_032, "bert": 108_891_648
        }  # fmt: skip
        encoded = encoder.image.eval()(torch.zeros(1, 3, 480, 480))
    assert encoded.grid == (15, 15)
    assert encoder.image.preprocess.edge == 512
    assert (encoder.image.preprocess.mean, encoder.image.preprocess.std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"stages": ("joint", "sections")}, "in this order"),
        ({"stages": ()}, "give some of language"),
        ({"recipes": {"jiont": {}}}, "did you mean 'joint'"),
        ({"masking": 0.0, "alignment": 0.0}, "all losses of the stage joint have weight 0"),
    ],
)
def test_bad_options_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        method(**config)


def test_a_tokenizer_without_a_mask_is_refused():
    made = BioViL(BioViL.configure({}), small_make(CONV, FIRST, words=tokenizer()))
    with pytest.raises(InputError, match="no special token 'mask'"):
        made.views(made.stages()[0], "texts")
