"""Continue texts with a language model.

Each text is printed with its prompt, one a line. Without a prompt texts begin anew.
"""

from typing import Any

from diptych.cli._model import load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import show_json
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL [PROMPT] [options]"
EXAMPLES = (
    "diptych generate runs/words 'a red'",
    "diptych generate runs/words 'a red' --top-p 0.9 --temperature 0.8 --seed 1 --count 5",
    "diptych generate runs/words 'a red' --strategy beam --beams 8 --max-tokens 20",
)
_OPTIONS = ("temperature", "top_k", "top_p", "beams", "length_penalty")


def add(parser: Parser) -> None:
    parser.option("What", "model", help="a RUN of language_model")
    parser.option("What", "prompt", help="the beginning of the text, in quotes")
    parser.option("How", "--strategy", metavar="NAME", help="sample (the default), greedy or beam")
    parser.option("How", "--temperature", type=float, metavar="X", help="of sample: below 1 safer, above 1 bolder (1)")
    parser.option("How", "--top-k", type=int, metavar="N", help="of sample: draw from the N most probable (all)")
    parser.option("How", "--top-p", type=float, metavar="P", help="of sample: from the share P of probability (0.95)")
    parser.option("How", "--beams", type=int, metavar="N", help="of beam: hypotheses (4)")
    parser.option("How", "--length-penalty", type=float, metavar="X", help="of beam: 0 favours short texts (1)")
    parser.option("How", "--max-tokens", type=int, metavar="N", help="tokens at the most (what the context holds)")
    parser.option("How", "--min-tokens", type=int, metavar="N", help="tokens at the least (0)")
    parser.option("How", "--count", type=int, metavar="N", help="texts (1)")
    parser.option("How", "--seed", type=int, metavar="N", help="decides what sample draws (0)")
    parser.option("More", "--json", type=bool, help="a JSON list of the texts")


def run(args: Namespace) -> None:
    if not args.model:
        raise InputError("diptych generate has no model; name a RUN of language_model")
    count = args.get("count", 1)
    if count < 1:
        raise InputError(f"--count is {count}; it must be at least 1")
    model: Any = load_model(args.model)
    if not hasattr(model, "generate"):
        raise InputError(f"{args.model} embeds and does not generate; name a RUN of language_model")
    prompt = args.prompt or ""
    settings = {name: args[name] for name in (*_OPTIONS, "max_tokens", "min_tokens", "seed") if name in args}
    found = model.generate([prompt] * count, strategy=args.get("strategy", "sample"), **settings)
    texts = [prompt + text for text in found]
    if args.get("json"):
        show_json(texts)
        return
    for text in texts:
        print(" ".join(text.split()))
