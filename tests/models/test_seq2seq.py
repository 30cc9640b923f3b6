"""Encoder-decoders: what is read, what is written, ours and T5 by one contract."""

import pytest
import torch
import torch.nn.functional as F
from tests.factories import tokenizer

from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.models import t5
from diptych.models.generate import generate
from diptych.models.seq2seq import seq2seq

SPECS = {"ours": "text:width=32:depth=2:heads=2", "t5": "t5:width=32:depth=2:heads=2"}


@pytest.fixture(params=SPECS)
def lm(request):
    torch.manual_seed(0)
    if request.param == "t5":
        pytest.importorskip("transformers")
    return seq2seq(SPECS[request.param], tokenizer()).eval()


def read(lm, count=3, words=4):
    vectors = torch.randn(count, 4, lm.width, generator=torch.Generator().manual_seed(1))
    ids = torch.arange(3, 3 + count * words).view(count, words)
    return lm.read(vectors, ids, torch.tensor([words, 2, 1][:count]))


def test_padding_behind_the_words_changes_nothing(lm):
    memory, mask = read(lm)
    assert mask.sum(1).tolist() == [8, 6, 5]
    vectors = torch.randn(3, 4, lm.width, generator=torch.Generator().manual_seed(1))
    short, _ = lm.read(vectors[1:2], torch.tensor([[7, 8]]), torch.tensor([2]))
    torch.testing.assert_close(memory[1:2, :6], short, atol=1e-5, rtol=0)
    alone, all_real = lm.read(vectors)
    assert alone.shape == (3, 4, lm.width)
    assert bool(all_real.all())


def test_log_prob_is_the_sum_over_the_tokens_behind_the_start(lm):
    memory, mask = read(lm)
    ids, lengths = torch.tensor([[1, 9, 8, 2], [1, 7, 2, 0], [1, 2, 0, 0]]), torch.tensor([4, 3, 2])
    found = lm.log_prob(ids, lengths, memory=memory, memory_mask=mask)
    for row in range(3):
        total = 0.0
        for at in range(1, int(lengths[row])):  # one step after another, each row alone
            n = int(mask[row].sum())
            state = lm.start(ids[row : row + 1, :at], None, memory[row : row + 1, :n])
            total += float(F.log_softmax(state.logits, -1)[0, ids[row, at]].detach())
        assert float(found[row].detach()) == pytest.approx(total, abs=1e-4)


def test_decoding_goes_on_as_the_whole_text_is_read(lm):
    memory, mask = read(lm)
    start = torch.ones(3, 1, dtype=torch.long)
    state = lm.next(lm.start(start, None, memory, memory_mask=mask), torch.tensor([5, 6, 7]))
    whole = lm.start(torch.tensor([[1, 5], [1, 6], [1, 7]]), None, memory, memory_mask=mask)
    torch.testing.assert_close(state.logits, whole.logits, atol=1e-5, rtol=0)
    chosen = torch.tensor([2, 2, 0])
    torch.testing.assert_close(
        lm.next(state.select(chosen), torch.tensor([9, 8, 9])).logits[0],
        lm.start(torch.tensor([[1, 7, 9]]), None, memory[2:], memory_mask=mask[2:]).logits[0],
        atol=1e-5,
        rtol=0,
    )


def test_beam_search_of_one_beam_is_greedy(lm):
    memory, mask = read(lm)
    begin = torch.ones(3, 1, dtype=torch.long)
    how = {"memory": memory, "memory_mask": mask, "max_tokens": 6, "eot": lm.tokenizer.eot}
    assert generate(lm, begin, strategy="beam", beams=1, **how) == generate(
        lm, begin, strategy="greedy", **how
    )


def test_t5_writes_what_transformers_itself_computes():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=60,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    ids, target = (
        torch.tensor([[4, 5, 1, 0], [7, 8, 9, 1]]),
        torch.tensor([[11, 12, 1], [13, 1, -100]]),
    )
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    loss = model(input_ids=ids, attention_mask=mask, labels=target).loss
    lm = t5.T5(model, tokenizer(), own=False).eval()
    memory, real = lm.read(lm.table(ids[:, :1]), ids[:, 1:], torch.tensor([2, 3]))
    written = torch.tensor([[0, 11, 12, 1], [0, 13, 1, 0]])
    found = lm.log_prob(written, torch.tensor([4, 3]), memory=memory, memory_mask=real)
    assert -float(found.detach().sum()) / 5 == pytest.approx(float(loss.detach()), rel=1e-5)


def test_parameters_of_t5_base_are_as_published():
    pytest.importorskip("transformers")
    with torch.device("meta"):
        lm = t5.fresh(build("clip"))
    own = sum(p.numel() for p in lm.parameters())
    assert own - lm.table.weight.numel() + 32128 * 768 == 222_903_552


def test_what_is_wrong_is_told(tmp_path):
    with pytest.raises(InputError, match="t5:FOLDER"):
        seq2seq("text:width=32", None)
    with pytest.raises(InputError, match="did you mean 'width'"):
        seq2seq("t5:widht=32", tokenizer())
    with pytest.raises(InputError, match=r"no config\.json"):
        seq2seq(f"t5:{tmp_path}", None)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="holds a bert"):
        seq2seq(f"t5:{tmp_path}", None)
