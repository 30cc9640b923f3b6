"""Causal language models of transformers: its probabilities and texts through our decoder, training
from them, and refusals."""

import json
import shutil
import string
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from diptych.cli import main
from diptych.errors import InputError
from diptych.methods.store import load
from diptych.models.language import LanguageModel
from diptych.models.pretrained.hf_lm import HFCausalLM
from diptych.models.state import peek_by_next

PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), " ",
          *string.ascii_lowercase]  # fmt: skip
V, CONTEXT = len(PIECES), 24
SIZES: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.4,
}
MADE = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=V, n_embd=32, n_layer=2, n_head=2, n_positions=CONTEXT, bos_token_id=1,
            eos_token_id=2, initializer_range=0.4,
        )
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, num_key_value_heads=2)
    ),
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SIZES)),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model of each kind, with a vocabulary of letters and bytes."""
    root = tmp_path_factory.mktemp("lms")
    for name, make in MADE.items():
        torch.manual_seed(0)
        make().save_pretrained(root / name)
        values = {"pieces": PIECES, "scores": [0.0] * V}
        (root / name / "vocab.json").write_text(json.dumps(values))
    return {name: root / name for name in MADE}


@pytest.fixture(scope="module")
def llama(folders: dict[str, Path]) -> LanguageModel:
    return load(f"hf-lm:{folders['llama']}")


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", MADE)
def test_log_probabilities_and_texts_are_those_of_transformers(kind: str, folders: dict[str, Path]):
    model = load(f"hf-lm:{folders[kind]}")
    assert isinstance(model, LanguageModel)
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(folders[kind]).eval()
    for text in ("a red cat", "dog"):
        ids = torch.tensor(model.tokenizer.encode([text]))
        with torch.no_grad():
            logits = theirs(input_ids=ids).logits
            found = -torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum")
            written = theirs.generate(
                ids[:, :-1], attention_mask=torch.ones_like(ids[:, :-1]), do_sample=False,
                max_new_tokens=6, pad_token_id=0,
            )  # fmt: skip
        close(model.log_prob(text), found[None])
        after = [number for number in written[0, ids.shape[1] - 1 :].tolist() if number != 2]
        before = ids[0, :-1].tolist()
        expected = model.tokenizer.decode(before + after)[len(text) :]
        assert model.generate(text, max_tokens=6) == [expected]


def test_a_start_that_is_also_the_end_does_not_end_a_text(tmp_path: Path):
    """GPT-2's only special token begins texts and ends them."""
    letters = {letter: at for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    end = len(letters)
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = tokenizers.decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = transformers.GPT2Config(
        vocab_size=end + 1, n_embd=32, n_layer=1, n_head=2, n_positions=CONTEXT, bos_token_id=end,
        eos_token_id=end, initializer_range=0.4,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    model = load(f"hf-lm:{tmp_path}")
    assert isinstance(model, LanguageModel)
    ids = torch.tensor(model.tokenizer.encode(["a cat"]))
    assert ids[0, 0] == ids[0, -1] == end
    with torch.no_grad():
        logits = theirs(input_ids=ids).logits
    found = -torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum")
    close(model.log_prob("a cat"), found[None])
    ways = [model.generate(prompt, max_tokens=4)[0] for prompt in ("a cat", "a dog", "why")]
    assert len(set(ways)) > 1


@settings(max_examples=10, deadline=None)
@given(places=st.permutations(range(7)))
def test_padding_may_stand_anywhere_and_changes_nothing(llama: LanguageModel, places: list[int]):
    torch.manual_seed(0)
    ids = torch.randint(3, V, (1, 5))
    mask = torch.tensor([[place in places[:5] for place in range(7)]])
    padded = torch.zeros(1, 7, dtype=torch.long)
    padded[mask] = ids[0]
    with torch.no_grad():
        plain, with_pads = llama.lm.start(ids), llama.lm.start(padded, mask)
        for token in torch.tensor([[5], [9]]):
            close(with_pads.logits, plain.logits)
            plain, with_pads = llama.lm.next(plain, token), llama.lm.next(with_pads, token)
        close(with_pads.logits, plain.logits)
        close(with_pads.hidden[with_pads.mask], plain.hidden[0])


@torch.no_grad()
def test_a_state_is_not_changed_by_what_follows_and_rows_can_be_chosen(llama: LanguageModel):
    ids = torch.randint(3, V, (3, 6))
    state = llama.lm.start(ids)
    chosen = torch.tensor([2, 0, 0])
    after = llama.lm.next(state.select(chosen), torch.tensor([5, 6, 7]))
    llama.lm.next(state, torch.tensor([11, 12, 13]))
    again = llama.lm.next(state, torch.tensor([5, 6, 7]))
    rows = torch.cat([ids[chosen], torch.tensor([[5], [6], [7]])], dim=1)
    close(after.logits, llama.lm.start(rows).logits)
    rows = torch.cat([ids, torch.tensor([[5], [6], [7]])], dim=1)
    close(again.logits, llama.lm.start(rows).logits)
    prefix = llama.lm.table(ids)
    close(llama.lm.start(None, prefix=prefix).logits, state.logits)


def test_beams_and_batches_agree_with_one_prompt_alone(llama: LanguageModel):
    prompts = ["a", "a longer prompt"]
    for strategy in ("greedy", "sample", "beam"):
        together = llama.generate(prompts, strategy=strategy, max_tokens=5, seed=3)
        assert together[0] == llama.generate("a", strategy=strategy, max_tokens=5, seed=3)[0]


def test_the_context_is_kept_and_a_memory_refused(llama: LanguageModel):
    with pytest.raises(InputError, match=f"exceed the language model's context {CONTEXT}"):
        llama.lm(torch.zeros(1, CONTEXT + 1, dtype=torch.long))
    with pytest.raises(InputError, match="reads no memory"):
        llama.lm.start(torch.tensor([[1]]), memory=torch.zeros(1, 2, 32))
    assert len(llama.generate("a", min_tokens=5)[0]) > 0


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_training_starts_from_it_and_the_run_loads_without_the_folder(
    kind: str, folders: dict[str, Path], tmp_path: Path
):
    """Tied and untied tables."""
    folder = tmp_path / "lm"
    shutil.copytree(folders[kind], folder)
    texts = tmp_path / "texts.jsonl"
    texts.write_text(
        "".join(f'{{"text": "a red cat {"very " * (i % 3)}old"}}\n' for i in range(32))
    )
    words = ["train", "language_model", "--init", f"hf-lm:{folder}", "--data", str(texts), "--lr", "1e-2",
             "--batch-size", "8", "--seed", "1"]  # fmt: skip
    assert main([*words, "--steps", "12", "--out", str(tmp_path / "a")]) == 0
    first = load(f"hf-lm:{folder}")
    shutil.rmtree(folder)
    trained = load(tmp_path / "a")
    assert float(trained.log_prob("a red cat old")) > float(first.log_prob("a red cat old")) + 5
    assert isinstance(trained.lm, HFCausalLM)
    assert str(folder) not in (tmp_path / "a/model.json").read_text()
    assert next(trained.lm.parameters()).dtype == torch.float32


def test_a_tokenizer_that_marks_nothing_takes_the_ends_of_the_config(
    folders: dict[str, Path], tmp_path: Path
):
    folder = tmp_path / "gpt2"
    shutil.copytree(folders["gpt2"], folder)
    (folder / "vocab.json").unlink()
    rust = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(["a", "b", "c", "d", "e"])}, "a")
    )
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=rust).save_pretrained(folder)
    model = load(f"hf-lm:{folder}")  # of fewer words than the model has rows
    assert model.tokenizer.encode(["b c"]) == [[1, 1, 2, 2]]
    change(folder / "config.json", eos_token_id=None)
    with pytest.raises(InputError, match="names no bos_token_id or no eos_token_id"):
        load(f"hf-lm:{folder}")


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def without_words(folder: Path) -> None:
    (folder / "vocab.json").unlink()


def without_a_weight(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def scaled_logits(folder: Path) -> None:
    change(folder / "config.json", model_type="granite", logits_scaling=4.0)


def without_context(folder: Path) -> None:
    shutil.rmtree(folder)
    config = transformers.BloomConfig(vocab_size=V, hidden_size=32, n_layer=1, n_head=2)
    transformers.BloomForCausalLM(config).save_pretrained(folder)


def an_encoder(folder: Path) -> None:
    change(folder / "config.json", model_type="clip")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_config, "there is no config.json in"),
        (without_words, "has no tokenizer files"),
        (without_a_weight, r"lack model.norm.weight \(1 in all\)"),
        (cut_weights, "is no causal language model that transformers can read"),
        (scaled_logits, "its logits are more than an output layer"),
        (without_context, "has no max_position_embeddings"),
        (an_encoder, "is no causal language model that transformers can read"),
    ],
)
def test_what_does_not_fit_is_refused(
    damage: Any, message: str, folders: dict[str, Path], tmp_path: Path
):
    folder = tmp_path / "lm"
    shutil.copytree(folders["llama"], folder)
    damage(folder)
    with pytest.raises(InputError, match=message):
        load(f"hf-lm:{folder}")


@pytest.mark.parametrize("kind", MADE)
@torch.no_grad()
def test_candidates_share_a_cache_and_are_read_as_each_alone(
    kind: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    lm = load(f"hf-lm:{folders[kind]}").lm
    assert isinstance(lm, HFCausalLM)
    assert lm._takes_masks
    ids = torch.tensor([[0, 0, 1, 40], [1, 50, 60, 70]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    state = lm.start(ids, mask)
    some = torch.tensor([[41, 42, 43], [44, 45, 46]])
    index, more = torch.tensor([2, 0]), torch.tensor([47, 48])
    slow = peek_by_next(lm, state, some)
    monkeypatch.setattr("diptych.models.pretrained.hf_lm.peek_by_next", None)
    peek = lm.peek(state, some)
    close(peek.hidden, slow.hidden)
    close(peek.logits, slow.logits)
    after, other = peek.take(index), slow.take(index)
    close(lm.next(after, more).logits, lm.next(other, more).logits)
    close(lm.next(state, more).logits, lm.start(*_longer(ids, mask, more)).logits)


def _longer(
    ids: torch.Tensor, mask: torch.Tensor, more: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    real = torch.ones(len(mask), 1, dtype=torch.bool)
    return torch.cat([ids, more[:, None]], 1), torch.cat([mask, real], 1)


def test_contrastive_search_is_that_of_a_loop_and_needs_no_masks_of_queries(
    folders: dict[str, Path],
):
    model = load(f"hf-lm:{folders['gpt2']}")
    model.lm.double()  # so that no rounding decides
    prompts = ["a", "red sea"]
    spec = {"strategy": "contrastive:k=4:alpha=0.6", "max_tokens": 6}
    found = model.generate(prompts, **spec)
    assert found != model.generate(prompts, max_tokens=6)
    assert model.generate(prompts, strategy="contrastive:alpha=0.0", max_tokens=6) == (
        model.generate(prompts, max_tokens=6)
    )
    model.lm.__dict__["_takes_masks"] = False
    assert model.generate(prompts, **spec) == found


def test_a_cache_that_drops_tokens_is_not_shared(tmp_path: Path):
    """Mistral keeps the tokens of a sliding window alone."""
    torch.manual_seed(0)
    sizes = SIZES | {"num_key_value_heads": 2, "sliding_window": 4}
    transformers.MistralForCausalLM(transformers.MistralConfig(**sizes)).save_pretrained(tmp_path)
    values = {"pieces": PIECES, "scores": [0.0] * V}
    (tmp_path / "vocab.json").write_text(json.dumps(values))
    model = load(f"hf-lm:{tmp_path}")
    lm = model.lm.double()
    prompt = [*model.tokenizer.before, *model.tokenizer.ids("a red")]
    [found] = model.generate(["a red"], strategy="contrastive:k=3:alpha=0.6", max_tokens=5)
    text = list(prompt)
    with torch.no_grad():
        assert not lm.start(torch.tensor([prompt])).cache.grows
        for _ in range(5):
            hidden = lm(torch.tensor([text]))
            p = lm.logits(hidden)[0, -1].softmax(-1)
            scores = {
                v: 0.4 * float(p[v])
                - 0.6
                * float(
                    torch.cosine_similarity(
                        lm(torch.tensor([[*text, v]]))[0, -1:], hidden[0], dim=-1
                    ).max()
                )
                for v in p.topk(3).indices.tolist()
            }
            text.append(max(scores, key=lambda v: scores[v]))
    whole = model.tokenizer.decode(text)
    assert whole[len(model.tokenizer.decode(prompt)) :] == found


def test_commands_name_it_in_one_line(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    where = f"hf-lm:{folders['gpt2']}"
    assert main(["info", where, "--json"]) == 0
    shape = json.loads(capsys.readouterr().out)["language_model"]
    assert shape == {"kind": "gpt2", "width": 32, "context": CONTEXT}
    assert main(["generate", where, "a", "--max-tokens", "2"]) == 0
    assert main(["embed", where, "--data", "scenes", "--out", "/nowhere/x.npz"]) == 2
    with pytest.raises(InputError, match="are in its own folder"):
        load(where, weights=folders["gpt2"])


def test_the_real_model_tells_a_story(data_pack: Any):
    model = load(f"hf-lm:{data_pack('stories260k')}")
    [text] = model.generate("Once upon a time, there was a little girl", max_tokens=12)
    assert text.startswith(" named Lily. She loved to play")
    prompts = ["Once upon a time, there was a little girl", "Tom had a red ball."]
    greedy = model.generate(prompts, max_tokens=60)
    assert model.generate(prompts, strategy="contrastive:alpha=0.0", max_tokens=60) == greedy
    searched = model.generate(prompts, strategy="contrastive:k=5:alpha=0.6", max_tokens=60)
    assert searched != greedy
    assert model.lm._takes_masks
    right, wrong = model.log_prob(["Lily went to the park.", "park the to went Lily."])
    assert float(right) > float(wrong) + 20
