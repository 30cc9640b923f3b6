"""The options of `diptych evaluate` that some suites have, and their values."""

from typing import Any, Literal

from diptych.cli._parser import Namespace, Parser
from diptych.errors import InputError


def add(parser: Parser) -> None:
    some = "For some suites"
    parser.option(
        some,
        "--template",
        "--templates",
        action="append",
        metavar="SPEC",
        help="zeroshot, text_labels: 'a {} | one {}', plain, imagenet, FILE.txt, …; may be given again",
    )
    parser.option(
        some,
        "--prompts",
        metavar="RUN|FILE",
        help="zeroshot: prompts that a run found for these classes, or a JSON file of sentences by class",
    )
    parser.option(
        some,
        "--combine",
        type=Literal["mean", "max"],
        metavar="HOW",
        help="zeroshot: a class is the mean of its prompts (default), or the nearest of them",
    )
    parser.option(
        some,
        "--draws",
        type=int,
        least=0,
        metavar="N",
        help="zeroshot: choices of one random prompt a class, for the spread of accuracy; clip_i, visualness: "
        "drawings of each class or text",
    )
    parser.option(
        some, "--novel", metavar="NAME,…", help="zeroshot, regions: the novel classes, or half"
    )
    parser.option(
        some,
        "--group",
        metavar="LABEL",
        help="zeroshot: accuracy for each of its values, and the worst; indicators: samples of one value are "
        "learnt from or judged together",
    )
    parser.option(some, "--classnorm", type=bool, help="zeroshot: standardise the class embeddings")
    parser.option(
        some,
        "--by-source",
        type=bool,
        help="zeroshot, sts: each source of --data by itself, and their mean",
    )
    parser.option(
        some,
        "--rerank",
        type=int,
        least=0,
        metavar="K",
        help="retrieval: the first K are ordered by match",
    )
    parser.option(
        some,
        "--by-sentence",
        type=bool,
        help="retrieval: a long text is the mean of its sentences, or with --by best their best",
    )
    parser.option(some, "--query", metavar="ROLE", help="text_retrieval: role of the queries")
    parser.option(some, "--roles", metavar="A,B", help="sts: roles of the two texts")
    parser.option(some, "--kinds", metavar="NAME,…", help="typos: swap, drop, double, …")
    parser.option(some, "--rates", metavar="X,…", help="typos: shares of words with one")
    parser.option(some, "--score", metavar="LABEL", help="sts: the graded similarity")
    parser.option(
        some, "--biases", type=bool, help="sts: what cosines follow beside the meaning: length, …"
    )
    parser.option(
        some,
        "--siblings",
        metavar="LABEL",
        help="composition: samples that share it are edits of the first; composed: alike",
    )
    parser.option(
        some,
        "--keep-reference",
        type=bool,
        help="composed: the reference is one of the wrong images",
    )
    parser.option(
        some,
        "--flag",
        metavar="LABEL",
        help="noisy_pairs: what marks a wrong pair (default: noise)",
    )
    parser.option(
        some,
        "--negatives",
        metavar="ROLE,…",
        help="composition, hard_negatives: roles of wrong texts",
    )
    parser.option(
        some,
        "--train",
        metavar="SOURCE",
        help="probes, nli: what they learn from; visualness: its threshold; continuation, captions, "
        "in_context: examples; text_labels: where labels are counted",
    )
    parser.option(
        some,
        "--drawer",
        metavar="MODEL",
        help="visualness: draws the texts, for the model to judge the drawings",
    )
    parser.option(
        some,
        "--lexicon",
        metavar="FILE",
        help="visualness: rated words, to compare with the attention to them",
    )
    parser.option(
        some,
        "--register",
        metavar="SOURCE",
        help="captions: texts in a register, whose words are counted in those that are written",
    )
    parser.option(
        some, "--labels", metavar="NAME,…", help="factors, indicators, arithmetic: which labels"
    )
    parser.option(some, "--common", metavar="LABEL,…", help="separation: factors of all images")
    parser.option(some, "--salient", metavar="LABEL,…", help="separation: factors of target images")
    parser.option(
        some,
        "--background",
        metavar="VALUE",
        help="separation: of the first salient factor, what is no target (default: no value); segment: the score "
        "below which segments are background (default: the model's)",
    )
    parser.option(
        some,
        "--spaces",
        metavar="A,B",
        help="separation: the two spaces (default: common,salient)",
    )
    parser.option(
        some,
        "--names",
        metavar="NAME,…",
        help="text_labels: some of the labels, such as held out; attributes: what regions may have",
    )
    parser.option(
        some,
        "--route",
        metavar="NAME",
        help="segment, regions, attributes: how positions are computed: tokens, or values of a ViT (default of "
        "regions); regions of a ResNet of CLIP also by crops",
    )
    parser.option(
        some,
        "--mask",
        metavar="NAME",
        help="dense, segment, affordance: which mask; regions: the areas of its classes in place of boxes, "
        "or object, the masks of the boxes",
    )
    parser.option(
        some,
        "--size",
        type=int,
        least=1,
        metavar="PIXELS",
        help="regions, attributes: the side at which whole images are read (default: the model's)",
    )
    parser.option(
        some,
        "--features",
        type=Literal["embedding", "projected", "pooled", "text"],
        metavar="KIND",
        help="probe, factors, separation: embedding (default), projected but not unit (separation's "
        "default), pooled before, or text; gap: of one side",
    )
    parser.option(
        some,
        "--fit",
        type=Literal["logistic", "sgd", "pooler"],
        metavar="WAY",
        help="probe: logistic regression (default), a layer by SGD, or a pooler of tokens",
    )
    parser.option(
        some,
        "--level",
        type=int,
        metavar="I",
        help="dense, depth, correspondence: a feature map of the image tower, 0 the finest (default: its tokens)",
    )
    parser.option(
        some,
        "--val",
        metavar="SOURCE",
        help="probe: what C, or the epoch, is chosen on; linkage: thresholds",
    )
    parser.option(
        some,
        "--targets",
        metavar="SOURCE",
        help="linkage: the exemplars (default: the first record of each entity)",
    )
    parser.option(
        some, "--weight", type=float, metavar="W", help="linkage: of images (default: the model's)"
    )
    parser.option(
        some, "--strings", type=bool, help="linkage: also by the texts alone, without the model"
    )
    parser.option(
        some,
        "--bootstrap",
        type=int,
        least=0,
        metavar="N",
        help="probe: draws of the test set, for its spread",
    )
    parser.option(
        some,
        "--shots",
        metavar="K,…",
        help="probe: few-shot probes of K samples a class; continuation, captions, in_context: examples "
        "before a prompt",
    )
    parser.option(some, "--seeds", metavar="N,…", help="probes, gap: seeds of splits and draws")
    parser.option(
        some,
        "--by",
        type=Literal[
            "embed",
            "match",
            "generate",
            "classifier",
            "log_prob",
            "best",
            "heat",
            "noise",
            "predict",
        ],
        metavar="ABILITY",
        help="answers, composition, dependency, hallucination, hard_negatives, noisy_pairs, pointing, text_labels, "
        "zeroshot: how it scores; retrieval: best; indicators: predict",
    )
    parser.option(
        some,
        "--earlier",
        metavar="MODEL,…",
        help="continual, rotation, wise: checkpoints from before",
    )
    parser.option(
        some,
        "--measure",
        metavar="SUITE.NUMBER",
        help="continual, wise: what is measured of each task",
    )
    parser.option(
        some,
        "--strategies",
        metavar="NAME,…",
        help="degeneration, continuation: of greedy, sample, contrastive, …, with options",
    )
    parser.option(
        some,
        "--prefix",
        type=int,
        metavar="N",
        help="degeneration: tokens of the text that are given",
    )
    parser.option(some, "--time", metavar="LABEL", help="survival: how long a sample was followed")
    parser.option(some, "--event", metavar="LABEL", help="survival: 1 if the event was observed")
    parser.option(
        some,
        "--length",
        type=int,
        metavar="N",
        help="degeneration, continuation: tokens that are generated; isotropy: tokens of a text",
    )
    parser.option(
        some, "--task", metavar="SPEC", help="continuation: open, summary, translation or code"
    )
    parser.option(some, "--reference", metavar="ROLE", help="continuation: role of the references")
    parser.option(
        some, "--scorer", metavar="MODEL", help="degeneration: a second model, for coherence"
    )
    parser.option(
        some,
        "--mauve",
        metavar="FILE.py",
        help="degeneration: a file with a function mauve(texts, references)",
    )
    parser.option(
        some,
        "--unit",
        type=Literal["word", "character"],
        metavar="UNIT",
        help="degeneration: what n-grams are of (default: word)",
    )
    parser.option(
        some,
        "--prompts-alone",
        type=bool,
        help="degeneration: texts need to have no tokens after the prompt",
    )
    parser.option(
        some, "--anls", type=bool, help="answers: how near written answers are in letters"
    )
    parser.option(
        some, "--meteor", type=bool, help="captions, agreement: METEOR by equal words and stems"
    )
    parser.option(
        some,
        "--relaxed",
        type=bool,
        help="answers: numbers are right within 5%%, other answers as texts",
    )
    parser.option(some, "--auroc", type=bool, help="zeroshot: area under the curve, of two classes")
    parser.option(
        some,
        "--sigma",
        type=float,
        metavar="N",
        help="heatmaps, affordance: the width of the filter in positions (default: 1.5; 0)",
    )
    parser.option(
        some,
        "--interpolation",
        type=Literal["nearest", "bilinear"],
        metavar="WAY",
        help="heatmaps, affordance: how positions become pixels (default: nearest; bilinear)",
    )
    parser.option(some, "--signed", type=bool, help="heatmaps: contrast with its sign")
    parser.option(
        some, "--rate", type=float, metavar="X", help="masked_tokens: the share (default: 0.15)"
    )
    parser.option(some, "--whole-word", type=bool, help="masked_tokens: mask whole words")
    parser.option(
        some, "--blind", type=bool, help="answers: questions are also asked without images"
    )
    parser.option(
        some, "--least", type=float, metavar="P", help="detection: scores below are left out (0.05)"
    )
    parser.option(
        some,
        "--overlap",
        type=float,
        metavar="IOU",
        help="detection: of boxes of a class that overlap by more one is kept (0.6)",
    )
    parser.option(
        some,
        "--most",
        type=int,
        least=1,
        metavar="N",
        help="detection: boxes of an image that are kept (default: the model's)",
    )
    parser.option(
        some, "--base", metavar="MODEL", help="dependency: the model over which there is a gain"
    )


_WHOLE = ("shots", "seeds")  # lists of numbers
_REALS = ("rates",)  # lists of shares
_LISTS = (  # of names
    *("roles", "kinds", "negatives", "labels", "names", "earlier", "strategies"),
    *("common", "salient", "spaces"),
)
_PLAIN = (
    *(
        "role",
        "label",
        "batch_size",
        "exact",
        "prompts",
        "group",
        "classnorm",
        "by_source",
        "combine",
        "draws",
        "rerank",
        "by_sentence",
        "query",
        "score",
        "biases",
        "siblings",
        "flag",
    ),
    *(
        "train",
        "features",
        "fit",
        "val",
        "targets",
        "weight",
        "strings",
        "bootstrap",
        "by",
        "measure",
        "prefix",
        "level",
        "length",
        "keep_reference",
        "time",
        "event",
    ),
    *(
        "anls",
        "meteor",
        "relaxed",
        "auroc",
        "sigma",
        "interpolation",
        "signed",
        "rate",
        "whole_word",
        "scorer",
        "unit",
    ),
    *("task", "reference", "lexicon", "drawer", "background", "route", "register", "mask", "size"),
    *("blind", "base", "least", "overlap", "most"),
)


def settings(args: Namespace) -> dict[str, Any]:
    """Return the given settings of the suites, by their names there."""
    found: dict[str, Any] = {name: args[name] for name in _PLAIN if name in args}
    found |= {name: names(args[name]) for name in _LISTS if name in args}
    found |= {name: _numbers(name, args[name], int) for name in _WHOLE if name in args}
    found |= {name: _numbers(name, args[name], float) for name in _REALS if name in args}
    if "templates" in args:
        from diptych.data.templates import templates

        found["templates"] = [template for spec in args.templates for template in templates(spec)]
    if "prompts_alone" in args:
        found["references"] = False
    if "mauve" in args:
        found["mauve"] = _function(args.mauve, "mauve")
    if "novel" in args:
        found["novel"] = "half" if args.novel == "half" else names(args.novel)
    return found


def _function(path: str, name: str) -> Any:
    """Return the function of this name in a Python file."""
    from diptych.files import python_file, run_module

    module = run_module(python_file(path, f"file with {name}"), f"diptych_{name}")
    if not callable(getattr(module, name, None)):
        raise InputError(f"{path} has no function {name}; define {name}(texts, references)")
    return getattr(module, name)


def names(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name for name in text.split(",") if name]


def _numbers(name: str, text: str, kind: type[int] | type[float]) -> list[Any]:
    try:
        return [kind(part) for part in names(text)]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        example = "1,4,16" if kind is int else "0.1,0.2,0.4"
        raise InputError(
            f"--{name} is {text!r}; write {what}, such as --{name} {example}"
        ) from None
