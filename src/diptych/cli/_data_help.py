"""The help of `diptych data`: a line for each of its words, and a page for each, in which an option
says what it means there."""

import argparse
from typing import NamedTuple

from diptych.cli._model import EMBEDDERS
from diptych.cli._parser import Parser


class Word(NamedTuple):
    """A word of `diptych data`: what stands behind it, its line in the list, and what it reads and
    writes."""

    usage: str
    title: str
    about: str = ""


_LIST = "Writes a list that is read in place of the source, as"
WORDS = {
    "make": Word(
        "WORLD --count N --out DIR",
        "write samples of a world as tar shards",
        "Every command reads the shards (--data 'DIR/*.tar'). The world itself can be read without any\n"
        "disk space (--data scenes:count=5000). A command that was stopped continues where it was.",
    ),
    "show": Word("WORLD --out page.html", "show samples of a world on an HTML page"),
    "filter": Word(
        "SOURCE --out kept.npz",
        "drop noisy pairs of images and texts by ALIGN's frequency rules",
        f"{_LIST} filtered:FILE.",
    ),
    "curate": Word(
        "POOL --queries SOURCE --model MODEL --out kept.npz",
        "keep the images of a pool that are nearest to images of other sources",
        f"{_LIST} filtered:FILE.",
    ),
    "vary": Word(
        "SOURCE --model MODEL --out DIR",
        "replace objects in images and captions, by a world or a diffusion model",
        "Writes images and a table, which `diptych train generative_negatives` reads.",
    ),
    "negatives": Word(
        "SOURCE --kinds KIND+KIND --out DIR",
        "give samples wrong captions, by rules, by retrieval or at random",
        "Writes images and a list, which `diptych train mmgeolm` reads.",
    ),
    "pages": Word(
        "DOCUMENTS --out pages.jsonl",
        "read the texts and images of HTML and PDF files into a table of pages",
        "The table is read by `diptych data label`.",
    ),
    "label": Word(
        "SOURCE --model MODEL --out labels.jsonl",
        "label sentences of pages by whether an image of the page matches them",
        "Writes a table, which `diptych train visualness` reads.",
    ),
    "ratings": Word(
        "FILE.csv --out labels.jsonl",
        "turn ratings of sentences by several people into labels",
        "Writes a table, which `diptych train visualness` reads.",
    ),
    "describe": Word(
        "SOURCE --by WRITER --out texts.json",
        "have a writer describe classes, images or texts",
        "A writer is a template, a world, a file, a model or a program. Texts about classes are read as\n"
        "captions by SOURCE:captions=FILE.",
    ),
    "interleave": Word(
        "FILMS --by WRITER --out documents.tsv",
        "cut films into clips, and tell each film as a text with its clips",
        "Writes a table, which `diptych train cosmo` reads.",
    ),
    "rewrite": Word(
        "SOURCE --model MODEL --gallery names.txt --out rewritten.jsonl",
        "add concepts that images show but their captions leave out",
        "Concepts are looked for in the captions of similar images.\n"
        f"{_LIST} rewritten:FILE (`diptych train cocu`).",
    ),
    "contrast": Word(
        "SOURCE [--model MODEL --differs MODEL] --out DIR",
        "pair images that differ in a detail, with a response for each",
        "Pairs are samples with their edits, and with --flips mirrored images. Writes images and a list,\n"
        "which `diptych train s_vco` reads.",
    ),
    "refine": Word(
        "SOURCE --out refined.jsonl",
        "drop sentences of captions that say nothing of their image, or tell an indicator",
        f"{_LIST} refined:FILE (`diptych train urbanclip`).",
    ),
}
_PLACE = {  # how the page of a word calls what is named behind it, and what that is
    "make": ("WORLD", "world with its options, such as scenes:size=96:number=2"),
    "show": ("WORLD", "world with its options, such as scenes:size=96:number=2"),
    "curate": ("POOL", "images to choose from: a folder, 'shards/*.tar', a table, …"),
    "vary": ("SOURCE", "a world, or with --by images with boxes and captions"),
    "negatives": (
        "SOURCE",
        "a world, or images with captions: a folder, 'shards/*.tar', a table, …",
    ),
    "pages": ("DOCUMENTS", "an HTML or PDF file, or a folder of them"),
    "label": ("SOURCE", "sentences and images of pages, such as pages.jsonl"),
    "ratings": ("FILE.csv", "table of sentences with the ratings of several people"),
    "interleave": ("FILMS", "a folder of videos, or another source of clips"),
    "contrast": ("SOURCE", "a world, or images with edits, or with texts that say left or right"),
}
_ANY = ("SOURCE", "a folder, 'shards/*.tar', a table, a world, …")
_WRITES_TEXT = "cmd:PROGRAM, or a model that generates text: a RUN, tiny-lm or hf-lm:FOLDER"
_MEANS = {  # what an option means for a word, where it is not what its own help says
    "make": {
        "out": "folder for the shards",
        "seed": "seed of the world (default: 0)",
    },
    "show": {
        "out": "HTML file to write",
        "count": "number of samples (default: 12)",
        "seed": "seed of the world (default: 0)",
    },
    "filter": {
        "out": "list to write, an .npz file",
        "role": "role of the texts of the pairs (default: caption)",
        "rules": "limits of the rules, None to turn one off (default: shorter_side=200, aspect=3, "
        "texts_per_image=1000, images_per_text=10, vocabulary=100000000, min_words=3, max_words=20)",
    },
    "curate": {
        "out": "list to write, an .npz file",
        "model": f"model that embeds the images: {EMBEDDERS}",
    },
    "vary": {
        "out": "folder for the images and the table",
        "count": "number of samples of a world (default: 1000)",
        "model": f"model that scores captions: {EMBEDDERS}",
        "by": "folder of an inpainting pipeline of diffusers, with --portrayals (default: the world itself)",
        "device": "with --by: device of the pipeline: auto (default: a GPU if there is one), cpu, cuda, cuda:N or mps",
    },
    "negatives": {
        "out": "folder for the images and the list",
        "count": "number of samples of a world (default: 1000)",
        "each": "negatives of each kind for a sample (default: 10)",
        "role": "role of the captions (default: caption)",
    },
    "pages": {"out": "table to write, a .jsonl file"},
    "label": {
        "out": "table to write, a .jsonl file",
        "model": f"model that compares sentences with images: {EMBEDDERS}",
        "role": "role of the sentences (default: caption)",
    },
    "ratings": {"out": "table to write, a .jsonl file"},
    "describe": {
        "out": "file to write, .json",
        "each": "number of texts for each class, image or text (default: all that an answer has)",
        "by": "writer: templates, world, FILE.json, cmd:PROGRAM, or a model that generates: a RUN, tiny-lm, tiny-vlm "
        "or hf-lm:FOLDER",
        "of": "label whose classes are described (default: class, or the only label with class names)",
        "prompt": "file with the question, {} for the name or the text; with --by templates the templates themselves",
        "whole": "take an answer as one text (default: as a text on each line)",
        "tries": "largest number of answers to a question (default: 3 for each text that is wanted)",
        "seed": "random seed of the answers of a model (default: 0)",
    },
    "interleave": {
        "out": "table to write, a .tsv file",
        "model": f"model that compares clips with texts, for --rules similarity=X: {EMBEDDERS}",
        "by": f"writer of the texts: templates, {_WRITES_TEXT}",
        "role": "role of the captions of clips (default: caption)",
        "rules": "limits of the rules, None to turn one off (default: min_words=3, max_words=200, repeats=2, "
        "barred=None, a file of words, similarity=None, min_clips=2)",
        "prompt": "file with the question, with {before}, {caption}, {regions} or {speech}; with --by templates the "
        "text itself",
        "tries": "largest number of answers to a question (default: 3)",
        "seed": "random seed of the answers of a model (default: 0)",
    },
    "rewrite": {
        "out": "table to write, a .jsonl file",
        "model": f"model that compares images with concepts: {EMBEDDERS}",
        "k": "similar images in whose captions concepts are looked for (default: 8)",
        "role": "role of the captions (default: caption)",
    },
    "contrast": {
        "out": "folder for the images and the list",
        "count": "number of samples of a world (default: 1000)",
        "model": f"model by which the images of a pair must be similar, with --differs: {EMBEDDERS}",
        "role": "role of the responses (default: answer)",
        "by": f"writer that turns texts into questions with answers: {_WRITES_TEXT} (default: none)",
        "of": "label for each of whose values --flips are drawn (default: none, of all samples)",
        "prompt": "file with the question, with {question}, {chosen}, {rejected}, and a line --- between two steps",
        "tries": "largest number of answers to a question (default: 3)",
    },
    "refine": {
        "out": "table to write, a .jsonl file",
        "model": f"model that compares sentences with images, by --negative: {EMBEDDERS} (default: none)",
        "by": "FILE.json with captions by key, from `diptych data describe --images` (default: the source's own)",
        "negative": "with --model: drop sentences below this cosine with their image, or the lowest N%% (default: 5%%)",
        "role": "role of the captions (default: caption)",
        "rules": "settings of the rules (default: shortest=2, common=0.3, guessed=True, unfinished=True, openers=True)",
        "whole": "join the sentences that are kept to one caption (default: a caption each)",
    },
}


def list_words(parser: Parser, examples: tuple[str, ...]) -> None:
    """Make the help a list of the words, with the options that all of them have."""
    width = max(map(len, WORDS)) + 2
    lines = [f"  {name:{width}}{word.title}" for name, word in WORDS.items()]
    about = parser.description or ""
    parser.description = "\n".join(
        [about, "", "Commands (`diptych data COMMAND --help` shows the options of each):", *lines]
    )
    parser.epilog = "\n".join(["Examples:", *(f"  {line}" for line in examples)])
    _show(
        parser,
        {
            "what": ("COMMAND", "one of the commands above"),
            "world": ("SOURCE", "data to read, a world, or documents"),
            "out": "file or folder to write",
            "help": None,
        },
    )


def narrow(parser: Parser, name: str, options: tuple[str, ...], examples: tuple[str, ...]) -> None:
    """Make the help the page of a word, with the `options` that it accepts."""
    word = WORDS[name]
    parser.usage = f"diptych data {name} {word.usage} [options]"
    title = word.title[0].upper() + word.title[1:] + "."
    parser.description = "\n\n".join(part for part in (title, word.about) if part)
    parser.epilog = "\n".join(
        ["Examples:", *(f"  {line}" for line in examples if line.split()[2] == name)]
    )
    texts = {option: _MEANS[name].get(option) for option in ("out", *options, "help")}
    _show(parser, {"world": _PLACE.get(name, _ANY), **texts})


def _show(parser: Parser, shown: dict[str, str | tuple[str, str] | None]) -> None:
    """Leave only the options that are `shown` in the help, with these texts (None: their own), and with
    these names of positional words."""
    for action in parser._actions:
        if action.dest not in shown:
            action.help = argparse.SUPPRESS
            continue
        text = shown[action.dest]
        if isinstance(text, tuple):
            action.metavar, text = text
        action.help = text or action.help
