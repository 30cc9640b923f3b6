"""The recipe of `tiny-lm`: the small language model, trained on what the worlds say and on WordNet's dictionary.

1.3 million parameters (2.7 MB in float16), a vocabulary of its own of 4,096, texts of at most 128 tokens. Trained a few
minutes it repeats itself under greedy and beam search and does not where it is sampled, as large ones do; `measure`
says how much. WordNet's text is read from where `wordnet` finds it and is not kept: the weights hold what was learnt.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.methods.store import load
from diptych.towers.language import LanguageModel
from diptych.training.config import RunConfig, resolve
from diptych.training.run import run

DATA = "scenes:count=40000,sentences:count=40000,wordnet:split=train"
ROLES = "long*=3,caption=1,entry=1"  # facts of a scene, pages of the dictionary; captions and single entries
STEPS = 2000
HELD_OUT = {  # source, role of its texts
    "scenes": ("scenes:split=test:count=500", "caption"),
    "sentences": ("sentences:split=test:count=500", "caption"),
    "wordnet": ("wordnet:split=test", "entry"),
}
PROMPTS = "wordnet:split=test:pos=verb"  # whose pages are continued
GREEDY, SAMPLE = "greedy", "sample:top_p=0.95"
BARS = {GREEDY: 0.3, SAMPLE: 0.8}  # diversity as a share of the text's own: at most, at least


def config(seed: int = 0, **recipe: Any) -> RunConfig:
    """What decides the run; `recipe` overrides the preset's, such as steps."""
    recipe = {"steps": STEPS, **recipe}
    return resolve("language_model", {"train": DATA}, config={"role": ROLES}, recipe=recipe, options={"seed": seed})


def train(out: str | Path, *, seed: int = 0, resume: bool = False, **recipe: Any) -> LanguageModel:
    """Train into the folder `out`, or go on there, and return the model.

    Raises InputError where no WordNet is found, and Interrupted after a signal, with the state saved.
    """
    run(config(seed, **recipe), out, resume=resume)
    return load(out)


def scores(model: LanguageModel) -> dict[str, Any]:
    """`by_strategy`, as the suite degeneration has it, and of each held-out source its perplexity, chance and bits."""
    pages = open_source(PROMPTS)
    told = evaluate(model, pages, ["degeneration"], role="long", strategies=(GREEDY, "beam", SAMPLE))["degeneration"]
    found: dict[str, Any] = {"by_strategy": told["by_strategy"], "prompts": told["n"], "perplexity": {}}
    for name, (spec, role) in HELD_OUT.items():
        read = evaluate(model, open_source(spec), ["perplexity"], role=role)["perplexity"]
        kept = ("perplexity", "chance_perplexity", "bits_per_character", "n")
        found["perplexity"][name] = {key: read[key] for key in kept}
    return found


def degenerates(found: Mapping[str, Any]) -> bool:
    """Whether greedy decoding repeats itself and sampling does not, by BARS."""
    shares = {name: row["diversity"] / found["by_strategy"]["text"]["diversity"]
              for name, row in found["by_strategy"].items()}  # fmt: skip
    return shares[GREEDY] <= BARS[GREEDY] and shares[SAMPLE] >= BARS[SAMPLE]


def table(found: Mapping[str, Any]) -> str:
    """A line a strategy and a line a held-out source."""
    lines = [
        f"{name:17} diversity {row['diversity']:.3f}, rep-2 {row['rep_2']:.3f}, rep-3 {row['rep_3']:.3f}, "
        f"rep-4 {row['rep_4']:.3f}"
        for name, row in found["by_strategy"].items()
    ]
    lines += [
        f"{name:17} perplexity {row['perplexity']:.1f} (chance {row['chance_perplexity']:,.0f}), "
        f"{row['bits_per_character']:.2f} bits a character, {row['n']:,} texts"
        for name, row in found["perplexity"].items()
    ]
    return "\n".join(lines)
