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
        help="zeroshot, text_labels, segment, regions, attributes, arithmetic: prompt templates: 'a {} | "
        "one {}', plain, imagenet, FILE.txt, …; may be repeated",
    )
    parser.option(
        some,
        "--prompts",
        metavar="RUN|FILE",
        help="zeroshot: prompts that a RUN found for these classes, or a JSON file of sentences by class",
    )
    parser.option(
        some,
        "--combine",
        type=Literal["mean", "max"],
        metavar="mean|max",
        help="zeroshot: score a class by the mean of its prompts, or by the nearest, max (default: mean)",
    )
    parser.option(
        some,
        "--draws",
        type=int,
        least=0,
        metavar="N",
        help="zeroshot: random choices of one prompt per class, for the spread of accuracy (default: 0); "
        "clip_i: drawings of each class (default: 8); visualness: drawings of each text (default: 4)",
    )
    parser.option(
        some,
        "--novel",
        metavar="NAME,…",
        help="zeroshot, regions: names of the novel classes, or half: the second half of the classes",
    )
    parser.option(
        some,
        "--group",
        metavar="LABEL",
        help="zeroshot: label by whose values accuracy is reported, with the worst; indicators: label "
        "whose values are not split between training and test",
    )
    parser.option(
        some,
        "--classnorm",
        type=bool,
        help="zeroshot: standardise the class embeddings over the classes",
    )
    parser.option(
        some,
        "--by-source",
        type=bool,
        help="zeroshot, sts: measure each source of --data by itself, and average",
    )
    parser.option(
        some,
        "--rerank",
        type=int,
        least=0,
        metavar="K",
        help="retrieval, attack: also rerank the first K results by the model's matching score (default: "
        "0, off)",
    )
    parser.option(
        some,
        "--by-sentence",
        type=bool,
        help="retrieval: embed a long text as the mean of its sentences; with --by best score it by the "
        "best of them",
    )
    parser.option(
        some,
        "--query",
        metavar="ROLE",
        help="text_retrieval: role of the queries (default: paraphrase, or --role)",
    )
    parser.option(
        some,
        "--roles",
        metavar="A,B",
        help="sts, typos: roles of the two texts (default: caption,pair)",
    )
    parser.option(
        some,
        "--kinds",
        metavar="NAME,…",
        help="typos: kinds of typos: swap, drop, double, neighbour, lookalike, split (default: all)",
    )
    parser.option(
        some,
        "--rates",
        metavar="X,…",
        help="typos: shares of words with a typo (default: 0.1,0.2,0.4)",
    )
    parser.option(
        some,
        "--score",
        metavar="LABEL",
        help="sts, typos: label with the graded similarity (default: similarity, score or relatedness)",
    )
    parser.option(
        some,
        "--biases",
        type=bool,
        help="sts: also report how far scores correlate with length, word overlap and word frequency",
    )
    parser.option(
        some,
        "--siblings",
        metavar="LABEL",
        help="composition: label shared by samples that are edits of the first of them; composed: label "
        "shared by near-duplicates (default: group)",
    )
    parser.option(
        some,
        "--keep-reference",
        type=bool,
        help="composed: keep the reference image in the gallery, as one of the wrong images",
    )
    parser.option(
        some,
        "--flag",
        metavar="LABEL",
        help="noisy_pairs: label that marks wrong pairs (default: noise)",
    )
    parser.option(
        some,
        "--negatives",
        metavar="ROLE,…",
        help="composition, hard_negatives: roles of the wrong texts",
    )
    parser.option(
        some,
        "--train",
        metavar="SOURCE",
        help="probes, nli, agreement, answers by classifier: training data; captions, continuation, "
        "in_context: source of examples; visualness: texts to choose the threshold on; text_labels: "
        "texts to count labels in",
    )
    parser.option(
        some,
        "--drawer",
        metavar="MODEL",
        help="visualness: model that draws each text; the evaluated model embeds the drawings",
    )
    parser.option(
        some,
        "--lexicon",
        metavar="FILE",
        help="visualness: table of words with ratings, which attention to the words is correlated with",
    )
    parser.option(
        some,
        "--register",
        metavar="SOURCE",
        help="captions: texts in a register; report the share of its words in the generated captions",
    )
    parser.option(
        some,
        "--labels",
        metavar="NAME,…",
        help="factors, indicators: labels to predict (default: all); arithmetic: labels to exchange "
        "(default: object,colour)",
    )
    parser.option(
        some,
        "--common",
        metavar="LABEL,…",
        help="separation: labels of factors that all images have",
    )
    parser.option(
        some,
        "--salient",
        metavar="LABEL,…",
        help="separation: labels of factors that only target images have",
    )
    parser.option(
        some,
        "--background",
        metavar="VALUE",
        help="separation: value of the first salient label in images that are no targets (default: no "
        "value); segment: score below which a segment is background (default: the model's)",
    )
    parser.option(
        some,
        "--spaces",
        metavar="A,B",
        help="separation: the two embedding spaces (default: common,salient)",
    )
    parser.option(
        some,
        "--names",
        metavar="NAME,…",
        help="text_labels: labels to measure, such as held-out ones (default: all); attributes: names of "
        "the attributes (default: the classes of the boxes)",
    )
    parser.option(
        some,
        "--route",
        metavar="NAME",
        help="segment, regions, attributes, words: features of positions: tokens, or values of a ViT "
        "(default: tokens; regions, attributes: values if there are any); regions, attributes: also "
        "crops, for a ResNet of CLIP",
    )
    parser.option(
        some,
        "--mask",
        metavar="NAME",
        help="dense, segment, affordance: name of the mask (default: class; affordance: heat); regions: "
        "mask whose areas are the regions in place of boxes, or object: the masks of the boxes",
    )
    parser.option(
        some,
        "--size",
        type=int,
        least=1,
        metavar="PIXELS",
        help="regions, attributes: side in pixels to which whole images are resized (default: the model's)",
    )
    parser.option(
        some,
        "--features",
        type=Literal["embedding", "projected", "pooled", "text"],
        metavar="KIND",
        help="probe, factors, separation: embedding (default), projected: not normalised (default of "
        "separation), pooled: before the projection, or text; gap: measure one side alone, by these features",
    )
    parser.option(
        some,
        "--fit",
        type=Literal["logistic", "sgd", "pooler"],
        metavar="WAY",
        help="probe: logistic: logistic regression (default), sgd: a linear layer, or pooler: an "
        "attentional pooler of tokens",
    )
    parser.option(
        some,
        "--level",
        type=int,
        metavar="I",
        help="dense, depth, correspondence: feature map of the image tower, 0 the finest, -1 the coarsest "
        "(default: its tokens)",
    )
    parser.option(
        some,
        "--val",
        metavar="SOURCE",
        help="probe: data on which C, or the epoch, is chosen (default: a fifth of the training data); "
        "linkage: records on which thresholds are chosen",
    )
    parser.option(
        some,
        "--targets",
        metavar="SOURCE",
        help="linkage: exemplars to link to (default: the first record of each entity)",
    )
    parser.option(
        some,
        "--weight",
        type=float,
        metavar="W",
        help="linkage: weight of the image in the embedding of a record, from 0 to 1 (default: the "
        "model's)",
    )
    parser.option(
        some,
        "--strings",
        type=bool,
        help="linkage: also link by string similarity of the texts, without the model",
    )
    parser.option(
        some,
        "--bootstrap",
        type=int,
        least=0,
        metavar="N",
        help="probe: number of resamplings of the test set, for the standard deviation (default: 0)",
    )
    parser.option(
        some,
        "--shots",
        metavar="K,…",
        help="probe: samples per class of few-shot probes; captions, continuation, in_context: examples "
        "before a prompt (default: 0; in_context: 4)",
    )
    parser.option(
        some,
        "--seeds",
        metavar="N,…",
        help="suites with random splits or draws: random seeds (default: 0; probe: 0,1,2,3,4)",
    )
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
        help="answers, composition, dependency, hallucination, hard_negatives, noisy_pairs, pointing, "
        "text_labels, zeroshot: ability of the model that scores: embed, match, generate, log_prob, "
        "classifier, heat or noise; retrieval: best, with --by-sentence; indicators: predict, the "
        "run's own predictions",
    )
    parser.option(
        some,
        "--earlier",
        metavar="MODEL,…",
        help="continual, rotation, wise: earlier checkpoints, oldest first",
    )
    parser.option(
        some,
        "--measure",
        metavar="SUITE.NUMBER",
        help="continual, wise: metric of each task (default: retrieval.i2t_r1+t2i_r1; wise: zeroshot.top1)",
    )
    parser.option(
        some,
        "--strategies",
        metavar="NAME,…",
        help="degeneration, continuation: decoding strategies with their options (default: greedy,sample; "
        "continuation: greedy and the task's)",
    )
    parser.option(
        some,
        "--prefix",
        type=int,
        metavar="N",
        help="degeneration, continuation: number of tokens of each text that are its prompt (default: 16)",
    )
    parser.option(
        some,
        "--time",
        metavar="LABEL",
        help="survival: label with the time of follow-up (default: time)",
    )
    parser.option(
        some,
        "--event",
        metavar="LABEL",
        help="survival: label that is 1 if the event was observed (default: event)",
    )
    parser.option(
        some,
        "--length",
        type=int,
        metavar="N",
        help="degeneration, continuation: number of generated tokens (default: 64); isotropy: largest "
        "number of tokens of a text (default: 256)",
    )
    parser.option(
        some,
        "--task",
        metavar="SPEC",
        help="continuation: open (default), summary, translation or code; attack: retrieval (default), "
        "captions or answers",
    )
    parser.option(
        some, "--reference", metavar="ROLE", help="continuation: role of the reference texts"
    )
    parser.option(
        some,
        "--scorer",
        metavar="MODEL",
        help="degeneration: second language model, which scores coherence",
    )
    parser.option(
        some,
        "--mauve",
        metavar="FILE.py",
        help="degeneration: file with a function mauve(texts, references)",
    )
    parser.option(
        some,
        "--unit",
        type=Literal["word", "character"],
        metavar="UNIT",
        help="degeneration: unit of n-grams: word (default) or character",
    )
    parser.option(
        some,
        "--prompts-alone",
        type=bool,
        help="degeneration: use texts that end with their prompt too, and do not compare with the source's "
        "own",
    )
    parser.option(
        some,
        "--anls",
        type=bool,
        help="answers: also report ANLS, the similarity of generated answers by letters",
    )
    parser.option(
        some,
        "--meteor",
        type=bool,
        help="captions, agreement: also report METEOR, by equal words and stems",
    )
    parser.option(
        some,
        "--relaxed",
        type=bool,
        help="answers: also report relaxed accuracy: numbers are right within 5%%, other answers as texts",
    )
    parser.option(
        some,
        "--auroc",
        type=bool,
        help="zeroshot: also report the area under the ROC curve, for a label of two classes",
    )
    parser.option(
        some,
        "--sigma",
        type=float,
        metavar="N",
        help="heatmaps, affordance: width of the Gaussian that smooths heat maps, in positions (default: "
        "1.5; affordance: 0)",
    )
    parser.option(
        some,
        "--interpolation",
        type=Literal["nearest", "bilinear"],
        metavar="nearest|bilinear",
        help="heatmaps, affordance: interpolation from positions to pixels (default: nearest; affordance: "
        "bilinear)",
    )
    parser.option(
        some,
        "--signed",
        type=bool,
        help="heatmaps: report the contrast-to-noise ratio (CNR) with its sign",
    )
    parser.option(
        some,
        "--rate",
        type=float,
        metavar="X",
        help="masked_tokens: share of tokens that are masked (default: 0.15)",
    )
    parser.option(
        some, "--whole-word", type=bool, help="masked_tokens: mask whole words, not single tokens"
    )
    parser.option(
        some, "--blind", type=bool, help="answers: also ask the questions without their images"
    )
    parser.option(
        some,
        "--least",
        type=float,
        metavar="P",
        help="detection: smallest score of a box (default: 0.05)",
    )
    parser.option(
        some,
        "--overlap",
        type=float,
        metavar="IOU",
        help="detection, NMS: IoU above which the lower-scoring box of a class is dropped (default: 0.6)",
    )
    parser.option(
        some,
        "--most",
        type=int,
        least=1,
        metavar="N",
        help="detection: largest number of boxes per image (default: the model's); dense, depth: positions "
        "to train on (default: 20000); isotropy: texts (default: 2000)",
    )
    parser.option(
        some,
        "--base",
        metavar="MODEL",
        help="dependency: baseline against which the gain is measured",
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
