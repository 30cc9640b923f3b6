"""The options of `diptych evaluate` that some suites have: one table, of which each row says how an option
is written and what the suites get."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from diptych.cli._parser import Namespace, Parser
from diptych.errors import InputError

SHARED = ("role", "label", "batch_size", "exact")  # options of all suites


def names(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name for name in text.split(",") if name]


def _names(text: str, option: str) -> list[str]:
    return names(text)


def _half_or_names(text: str, option: str) -> str | list[str]:
    return text if text == "half" else names(text)


def _whole(text: str, option: str) -> list[int]:
    return _numbers(text, int, f"write whole numbers, such as {option} 1,4,16", option)


def _shares(text: str, option: str) -> list[float]:
    return _numbers(text, float, f"write numbers, such as {option} 0.1,0.2,0.4", option)


def _numbers(text: str, kind: type[int] | type[float], remedy: str, option: str) -> list[Any]:
    try:
        return [kind(part) for part in names(text)]
    except ValueError:
        raise InputError(f"{option} is {text!r}; {remedy}") from None


def _templates(specs: list[str], option: str) -> list[str]:
    from diptych.data.templates import templates

    return [template for spec in specs for template in templates(spec)]


def _function(path: str, option: str) -> Any:
    """The function in a Python file that is named as the option."""
    from diptych.files import python_file, run_module

    name = option.removeprefix("--")
    module = run_module(python_file(path, f"file with {name}"), f"diptych_{name}")
    if not callable(getattr(module, name, None)):
        raise InputError(f"{path} has no function {name}; define {name}(texts, references)")
    return getattr(module, name)


def _negated(given: bool, option: str) -> bool:
    return not given


@dataclass(frozen=True)
class Option:
    """An option and its setting: the value of `name`, read by `read`, is the setting of the same name in the
    library, or `setting`."""

    name: str
    metavar: str  # "" for a flag
    help: str
    type: Any = str
    least: int | None = None
    read: Callable[[Any, str], Any] | None = None
    setting: str = ""
    more: tuple[str, ...] = ()
    """Further spellings; the last is the one in error messages."""
    many: bool = False
    """Whether it may be given several times."""

    @property
    def dest(self) -> str:
        return (self.more or (self.name,))[-1].removeprefix("--").replace("-", "_")

    def add(self, parser: Parser) -> None:
        settings: dict[str, Any] = {"metavar": self.metavar} if self.metavar else {}
        settings |= {"action": "append"} if self.many else {"type": self.type}
        names = (self.name, *self.more)
        parser.option("For some suites", *names, least=self.least, help=self.help, **settings)

    def value(self, given: Any) -> Any:
        return given if self.read is None else self.read(given, self.name)


OPTIONS = (
    Option(
        "--template",
        "SPEC",
        "zeroshot, text_labels, segment, regions, attributes, arithmetic: prompt templates: 'a {} | one "
        "{}', plain, imagenet, FILE.txt, …; may be repeated",
        more=("--templates",),
        many=True,
        read=_templates,
    ),
    Option(
        "--prompts",
        "RUN|FILE",
        "zeroshot: prompts that a RUN found for these classes, or a JSON file of sentences by class",
    ),
    Option(
        "--combine",
        "mean|max",
        "zeroshot: score a class by the mean of its prompts, or by the nearest, max (default: mean)",
        type=Literal["mean", "max"],
    ),
    Option(
        "--draws",
        "N",
        "zeroshot: random choices of one prompt per class, for the spread of accuracy (default: 0); "
        "clip_i: drawings of each class (default: 8); visualness: drawings of each text (default: 4)",
        type=int,
        least=0,
    ),
    Option(
        "--novel",
        "NAME,…",
        "zeroshot, regions: names of the novel classes, or half: the second half of the classes",
        read=_half_or_names,
    ),
    Option(
        "--group",
        "LABEL",
        "zeroshot: label by whose values accuracy is reported, with the worst; indicators: label whose "
        "values are not split between training and test",
    ),
    Option(
        "--classnorm",
        "",
        "zeroshot: standardise the class embeddings over the classes",
        type=bool,
    ),
    Option(
        "--by-source",
        "",
        "zeroshot, sts: measure each source of --data by itself, and average",
        type=bool,
    ),
    Option(
        "--rerank",
        "K",
        "retrieval, attack: also rerank the first K results by the model's matching score (default: 0, "
        "off)",
        type=int,
        least=0,
    ),
    Option(
        "--by-sentence",
        "",
        "retrieval: embed a long text as the mean of its sentences; with --by best score it by the best "
        "of them",
        type=bool,
    ),
    Option(
        "--query",
        "ROLE",
        "text_retrieval: role of the queries (default: paraphrase, or --role)",
    ),
    Option(
        "--roles",
        "A,B",
        "sts, typos: roles of the two texts (default: caption,pair)",
        read=_names,
    ),
    Option(
        "--kinds",
        "NAME,…",
        "typos: kinds of typos: swap, drop, double, neighbour, lookalike, split (default: all)",
        read=_names,
    ),
    Option(
        "--rates",
        "X,…",
        "typos: shares of words with a typo (default: 0.1,0.2,0.4)",
        read=_shares,
    ),
    Option(
        "--score",
        "LABEL",
        "sts, typos: label with the graded similarity (default: similarity, score or relatedness)",
    ),
    Option(
        "--biases",
        "",
        "sts: also report how far scores correlate with length, word overlap and word frequency",
        type=bool,
    ),
    Option(
        "--siblings",
        "LABEL",
        "composition: label shared by samples that are edits of the first of them; composed: label shared "
        "by near-duplicates (default: group)",
    ),
    Option(
        "--keep-reference",
        "",
        "composed: keep the reference image in the gallery, as one of the wrong images",
        type=bool,
    ),
    Option(
        "--flag",
        "LABEL",
        "noisy_pairs: label that marks wrong pairs (default: noise)",
    ),
    Option(
        "--negatives",
        "ROLE,…",
        "composition, hard_negatives: roles of the wrong texts",
        read=_names,
    ),
    Option(
        "--train",
        "SOURCE",
        "probes, nli, agreement, answers by classifier: training data; captions, continuation, "
        "in_context: source of examples; visualness: texts to choose the threshold on; text_labels: texts "
        "to count labels in",
    ),
    Option(
        "--drawer",
        "MODEL",
        "visualness: model that draws each text; the evaluated model embeds the drawings",
    ),
    Option(
        "--lexicon",
        "FILE",
        "visualness: table of words with ratings, which attention to the words is correlated with",
    ),
    Option(
        "--register",
        "SOURCE",
        "captions: texts in a register; report the share of its words in the generated captions",
    ),
    Option(
        "--labels",
        "NAME,…",
        "factors, indicators: labels to predict (default: all); arithmetic: labels to exchange (default: "
        "object,colour)",
        read=_names,
    ),
    Option(
        "--common",
        "LABEL,…",
        "separation: labels of factors that all images have",
        read=_names,
    ),
    Option(
        "--salient",
        "LABEL,…",
        "separation: labels of factors that only target images have",
        read=_names,
    ),
    Option(
        "--background",
        "VALUE",
        "separation: value of the first salient label in images that are no targets (default: no value); "
        "segment: score below which a segment is background (default: the model's)",
    ),
    Option(
        "--spaces",
        "A,B",
        "separation: the two embedding spaces (default: common,salient)",
        read=_names,
    ),
    Option(
        "--names",
        "NAME,…",
        "text_labels: labels to measure, such as held-out ones (default: all); attributes: names of the "
        "attributes (default: the classes of the boxes)",
        read=_names,
    ),
    Option(
        "--route",
        "NAME",
        "segment, regions, attributes, words: features of positions: tokens, or values of a ViT (default: "
        "tokens; regions, attributes: values if there are any); regions, attributes: also crops, for a "
        "ResNet of CLIP",
    ),
    Option(
        "--mask",
        "NAME",
        "dense, segment, affordance: name of the mask (default: class; affordance: heat); regions: mask "
        "whose areas are the regions in place of boxes, or object: the masks of the boxes",
    ),
    Option(
        "--size",
        "PIXELS",
        "regions, attributes: side in pixels to which whole images are resized (default: the model's)",
        type=int,
        least=1,
    ),
    Option(
        "--features",
        "KIND",
        "probe, factors, separation: embedding (default), projected: not normalised (default of "
        "separation), pooled: before the projection, or text; gap: measure one side alone, by these "
        "features",
        type=Literal["embedding", "projected", "pooled", "text"],
    ),
    Option(
        "--fit",
        "WAY",
        "probe: logistic: logistic regression (default), sgd: a linear layer, or pooler: an attentional "
        "pooler of tokens",
        type=Literal["logistic", "sgd", "pooler"],
    ),
    Option(
        "--level",
        "I",
        "dense, depth, correspondence: feature map of the image tower, 0 the finest, -1 the coarsest "
        "(default: its tokens)",
        type=int,
    ),
    Option(
        "--val",
        "SOURCE",
        "probe: data on which C, or the epoch, is chosen (default: a fifth of the training data); "
        "linkage: records on which thresholds are chosen",
    ),
    Option(
        "--targets",
        "SOURCE",
        "linkage: exemplars to link to (default: the first record of each entity)",
    ),
    Option(
        "--weight",
        "W",
        "linkage: weight of the image in the embedding of a record, from 0 to 1 (default: the model's)",
        type=float,
    ),
    Option(
        "--strings",
        "",
        "linkage: also link by string similarity of the texts, without the model",
        type=bool,
    ),
    Option(
        "--bootstrap",
        "N",
        "probe: number of resamplings of the test set, for the standard deviation (default: 0)",
        type=int,
        least=0,
    ),
    Option(
        "--shots",
        "K,…",
        "probe: samples per class of few-shot probes; captions, continuation, in_context: examples before "
        "a prompt (default: 0; in_context: 4)",
        read=_whole,
    ),
    Option(
        "--seeds",
        "N,…",
        "suites with random splits or draws: random seeds (default: 0; probe: 0,1,2,3,4)",
        read=_whole,
    ),
    Option(
        "--by",
        "ABILITY",
        "answers, composition, dependency, hallucination, hard_negatives, noisy_pairs, pointing, "
        "text_labels, zeroshot: ability of the model that scores: embed, match, generate, log_prob, "
        "classifier, heat or noise; retrieval: best, with --by-sentence; indicators: predict, the run's "
        "own predictions",
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
    ),
    Option(
        "--earlier",
        "MODEL,…",
        "continual, rotation, wise: earlier checkpoints, oldest first",
        read=_names,
    ),
    Option(
        "--measure",
        "SUITE.NUMBER",
        "continual, wise: metric of each task (default: retrieval.i2t_r1+t2i_r1; wise: zeroshot.top1)",
    ),
    Option(
        "--strategies",
        "NAME,…",
        "degeneration, continuation: decoding strategies with their options (default: greedy,sample; "
        "continuation: greedy and the task's)",
        read=_names,
    ),
    Option(
        "--prefix",
        "N",
        "degeneration, continuation: number of tokens of each text that are its prompt (default: 16)",
        type=int,
    ),
    Option(
        "--time",
        "LABEL",
        "survival: label with the time of follow-up (default: time)",
    ),
    Option(
        "--event",
        "LABEL",
        "survival: label that is 1 if the event was observed (default: event)",
    ),
    Option(
        "--length",
        "N",
        "degeneration, continuation: number of generated tokens (default: 64); isotropy: largest number "
        "of tokens of a text (default: 256)",
        type=int,
    ),
    Option(
        "--task",
        "SPEC",
        "continuation: open (default), summary, translation or code; attack: retrieval (default), "
        "captions or answers",
    ),
    Option(
        "--reference",
        "ROLE",
        "continuation: role of the reference texts",
    ),
    Option(
        "--scorer",
        "MODEL",
        "degeneration: second language model, which scores coherence",
    ),
    Option(
        "--mauve",
        "FILE.py",
        "degeneration: file with a function mauve(texts, references)",
        read=_function,
    ),
    Option(
        "--unit",
        "UNIT",
        "degeneration: unit of n-grams: word (default) or character",
        type=Literal["word", "character"],
    ),
    Option(
        "--prompts-alone",
        "",
        "degeneration: use texts that end with their prompt too, and do not compare with the source's own",
        type=bool,
        setting="references",
        read=_negated,
    ),
    Option(
        "--anls",
        "",
        "answers: also report ANLS, the similarity of generated answers by letters",
        type=bool,
    ),
    Option(
        "--meteor",
        "",
        "captions, agreement: also report METEOR, by equal words and stems",
        type=bool,
    ),
    Option(
        "--relaxed",
        "",
        "answers: also report relaxed accuracy: numbers are right within 5%%, other answers as texts",
        type=bool,
    ),
    Option(
        "--auroc",
        "",
        "zeroshot: also report the area under the ROC curve, for a label of two classes",
        type=bool,
    ),
    Option(
        "--sigma",
        "N",
        "heatmaps, affordance: width of the Gaussian that smooths heat maps, in positions (default: 1.5; "
        "affordance: 0)",
        type=float,
    ),
    Option(
        "--interpolation",
        "nearest|bilinear",
        "heatmaps, affordance: interpolation from positions to pixels (default: nearest; affordance: "
        "bilinear)",
        type=Literal["nearest", "bilinear"],
    ),
    Option(
        "--signed",
        "",
        "heatmaps: report the contrast-to-noise ratio (CNR) with its sign",
        type=bool,
    ),
    Option(
        "--rate",
        "X",
        "masked_tokens: share of tokens that are masked (default: 0.15)",
        type=float,
    ),
    Option(
        "--whole-word",
        "",
        "masked_tokens: mask whole words, not single tokens",
        type=bool,
    ),
    Option(
        "--blind",
        "",
        "answers: also ask the questions without their images",
        type=bool,
    ),
    Option(
        "--score-threshold",
        "P",
        "detection: smallest score of a box (default: 0.05)",
        type=float,
    ),
    Option(
        "--nms-threshold",
        "IOU",
        "detection, NMS: IoU above which the lower-scoring box of a class is dropped (default: 0.6)",
        type=float,
    ),
    Option(
        "--max-boxes",
        "N",
        "detection: largest number of boxes per image (default: the model's)",
        type=int,
        least=1,
    ),
    Option(
        "--max-positions",
        "N",
        "dense, depth: largest number of positions to train on (default: 20000)",
        type=int,
        least=1,
    ),
    Option(
        "--max-texts",
        "N",
        "isotropy: largest number of texts (default: 2000)",
        type=int,
        least=1,
    ),
    Option(
        "--base",
        "MODEL",
        "dependency: baseline against which the gain is measured",
    ),
)


def add(parser: Parser) -> None:
    """Add the options to a parser."""
    for option in OPTIONS:
        option.add(parser)
    parser.renamed |= {"least": "score-threshold", "overlap": "nms-threshold"}


def settings(args: Namespace) -> dict[str, Any]:
    """Return the given settings of the suites, by their names in the library."""
    found = {name: args[name] for name in SHARED if name in args}
    for option in OPTIONS:
        if option.dest in args:
            found[option.setting or option.dest] = option.value(args[option.dest])
    return found
