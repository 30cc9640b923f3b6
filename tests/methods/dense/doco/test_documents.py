"""The teachers: coordinates, what an object is made of, and LayoutLMv3 from a folder."""

import json
import math

import pytest
import torch
from tests.methods.dense.doco_helpers import PRETRAIN, Pages, made, pretraining, words

from diptych.errors import InputError
from diptych.methods.dense.doco.documents import (
    LayoutConfig,
    LayoutEncoder,
    LentLayout,
    Objects,
    coordinates,
    objects_of,
)


def teacher(**config):
    torch.manual_seed(0)
    return LayoutEncoder(LayoutConfig(width=16, patch=8, **config), words(), (32, 32)).eval()


def objects(texts, boxes):
    tokenizer = words()
    rows = tokenizer.encode(texts)
    L = max(map(len, rows))
    ids = torch.tensor([[row + [tokenizer.pad] * (L - len(row)) for row in rows]])
    place = torch.arange(L)
    lengths = torch.tensor([[len(row) for row in rows]])
    own = (place >= 1) & (place < lengths[..., None] - 1)
    return Objects(torch.tensor([boxes]), torch.ones(1, len(texts)).bool(), ids, own)


PAGE = torch.randint(
    0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
LEFT = [0.0, 0.0, 0.25, 0.25]
RIGHT = [0.5, 0.5, 0.9, 0.75]


def test_coordinates_are_rounded_half_up():
    found = coordinates(torch.tensor([0.00049, 0.0005, 0.0015, 0.9996]))
    assert found.tolist() == [0, 1, 2, 1000]


@torch.no_grad()
def test_padding_and_the_texts_of_padding_change_nothing():
    given = objects(["rail", "coal"], [LEFT, RIGHT])
    found, there = teacher()(PAGE, given)
    longer = objects(["rail", "coal", "horse"], [LEFT, RIGHT, [0.1, 0.1, 0.4, 0.9]])
    longer = longer._replace(there=torch.tensor([[True, True, False]]))
    more, _ = teacher()(PAGE, longer)
    assert torch.allclose(more[:, :3], found, atol=1e-6)
    assert there.tolist() == [[True] * 3]


@torch.no_grad()
def test_equal_words_tie_without_layout_and_page_and_do_not_with_them():
    given = objects(["rail", "rail", "coal"], [LEFT, RIGHT, [0.3, 0.3, 0.4, 0.4]])
    same, _ = teacher(layout=False, visual=False)(PAGE, given)
    assert torch.allclose(same[:, 1], same[:, 2], atol=1e-6)
    apart, _ = teacher(visual=False)(PAGE, given)
    assert not torch.allclose(apart[:, 1], apart[:, 2], atol=1e-3)
    m = torch.nn.functional.normalize(same[0], dim=-1).double()
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        v = torch.nn.functional.normalize(torch.randn(4, 16, generator=generator).double(), dim=-1)
        S = v @ m.T / 0.07
        rows = S.logsumexp(1) - S.diagonal()
        columns = S.logsumexp(0) - S.diagonal()
        assert float(rows[1:3].min()) >= math.log(2) - 1e-6
        assert float(columns[1:3].mean()) >= math.log(2) - 1e-6


@torch.no_grad()
def test_a_teacher_of_layout_alone_reads_no_text():
    blind = teacher(text=False, visual=False)
    one, _ = blind(PAGE, objects(["rail"], [LEFT]))
    other, _ = blind(255 - PAGE, objects(["coal"], [LEFT]))
    assert torch.equal(one, other)
    reads = teacher()
    one, _ = reads(PAGE, objects(["rail"], [LEFT]))
    other, _ = reads(PAGE, objects(["coal"], [LEFT]))
    assert not torch.allclose(one, other, atol=1e-3)


@torch.no_grad()
def test_pieces_in_another_order_are_another_word():
    reads = teacher(layout=False, visual=False)
    given = objects(["damo"], [LEFT])
    assert int(given.own.sum()) > 1
    turned = given._replace(ids=given.ids.where(~given.own, given.ids.flip(-1)))
    assert sorted(turned.ids.flatten().tolist()) == sorted(given.ids.flatten().tolist())
    assert not torch.allclose(reads(PAGE, given)[0], reads(PAGE, turned)[0], atol=1e-3)


def test_a_box_without_area_is_no_object():
    method = made()
    given = pretraining(method, Pages(2))
    given.fields["regions"][0, 1] = torch.tensor([0.5, 0.5, 0.5, 0.9])
    found = objects_of(given, method.words)
    assert not found.there[0, 1]
    assert found.there[0, 0]


# ---- LayoutLMv3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random LayoutLMv3 in a folder, with the words of pages and a context of 40."""
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("layoutlmv3")
    tokenizer = words()
    torch.manual_seed(0)
    config = transformers.LayoutLMv3Config(
        vocab_size=tokenizer.vocab_size, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=42, coordinate_size=4, shape_size=4,
        input_size=32, patch_size=16, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    transformers.LayoutLMv3Model(config).save_pretrained(place)
    (place / "tokenizer.json").write_text(tokenizer.pipeline)
    (place / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 40})
    )
    return place


@torch.no_grad()
def test_a_layoutlmv3_gives_the_mean_of_each_words_pieces(folder):
    method = made(teacher=f"hf:{folder}")
    source = Pages(2, lines=2)
    method.setup({"train": source})
    teacher = method.teacher
    assert method.stages()[0].lr_scale == {}
    assert not any(name.startswith("teacher.") for name, _ in method.named_parameters())
    given = pretraining(method, source)
    found, there = teacher(given.image.flat, objects_of(given, teacher.words))
    model = teacher.model
    for at in range(2):
        ids, boxes, owners = [model.config.bos_token_id], [[0] * 4], [-1]
        for number, box in enumerate(source[at].boxes):
            shares = [side / size for side, size in zip(box.xyxy, (96, 66) * 2, strict=True)]
            for piece in teacher.words.ids(box.text):
                ids.append(piece)
                boxes.append([int(side * 1000 + 0.5) for side in shares])
                owners.append(number)
        ids.append(model.config.eos_token_id)
        boxes.append([0] * 4)
        owners.append(-1)
        assert len(ids) <= 40
        pixels = given.image.flat[at : at + 1].float() / 127.5 - 1
        read = model(
            input_ids=torch.tensor([ids]), bbox=torch.tensor([boxes]), pixel_values=pixels
        ).last_hidden_state[0]
        assert torch.allclose(found[at, 0], read[0], atol=1e-4)
        for number in range(len(source[at].boxes)):
            rows = [read[place] for place, owner in enumerate(owners) if owner == number]
            assert torch.allclose(found[at, 1 + number], sum(rows) / len(rows), atol=1e-4)
            assert there[at, 1 + number]
    assert method.loss(method.encode(given, PRETRAIN), given, PRETRAIN).total.isfinite()


@torch.no_grad()
def test_what_is_beyond_its_context_is_no_object(folder):
    teacher = LentLayout(str(folder))
    texts = ["damo pipe gena rail coal damo pipe", "rail damo gena pipe damo damo tone", "coal"]
    given = objects(texts, [LEFT, RIGHT, LEFT])
    pieces = given.own.sum(-1)[0].cumsum(0).tolist()
    _, there = teacher(PAGE, given)
    begins = [0, *pieces[:-1]]
    assert there[0, 1:].tolist() == [begin < 38 for begin in begins]
    assert pieces[-1] > 38


def test_a_folder_without_a_layoutlmv3_is_refused(tmp_path, folder):
    method = made(teacher=f"hf:{tmp_path}")
    with pytest.raises(InputError, match="the teacher cannot be loaded: .* holds no config.json"):
        method.setup({"train": Pages(1)})
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="is of the type 'bert'"):
        made(teacher=f"hf:{tmp_path}")
