"""What the tests of DoCo share."""

import math

from tests.factories import make_method
from tests.methods.fuse.cg_vlm_helpers import batch

from diptych.data.tokenizers import build
from diptych.data.worlds.pages import Config, World
from diptych.data.worlds.pages.words import WORDS
from diptych.methods.base import At

PRETRAIN = At(0, 10, 0, 0, "pretrain")
INSTRUCT = At(0, 10, 0, 0, "instruct")
LM = "text:width=32:depth=2:heads=2"
TEACHER = "layout:width=32:depth=1:heads=2:patch=16"
IMAGE = "vit:image_size=32:patch=8:width=32:depth=1:heads=2"


class Pages:
    """Pages of the world, of 96 x 66 pixels."""

    name = "pages"

    def __init__(self, count=4, **options):
        self.world = World(Config(**{"width": 96, "height": 66, "lines": 3, **options}))
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.world.example(self.world.sample(0, index), str(index))

    def keys(self):
        return [str(index) for index in range(self.count)]

    def schema(self):
        return self.world.schema()


def words():
    """A tokenizer of the words of pages."""
    return build("bpe:vocab_size=400:context=64", [" ".join(WORDS), "what is the total of price?"])


def made(seed=0, image=IMAGE, **config):
    """A small method on pages; its page encoder has patches of 8 pixels."""
    options = {"teacher": TEACHER, "max_boxes": 9, **config}
    return make_method("doco", seed, image=image, words=words(), **options).eval()


def pretraining(method, source):
    """All pages of a source in one batch of the first stage."""
    return batch(method, source, PRETRAIN)


def slow_shares(box, side):
    """The shares of the cells of a grid of side x side, row by row, that lie in a box of shares."""
    return [slow_share(box, x / side, y / side, 1 / side) for y in range(side) for x in range(side)]


def slow_share(box, x, y, side):
    """The share of a square cell that lies in a box."""
    width = max(0.0, min(box[2], x + side) - max(box[0], x))
    height = max(0.0, min(box[3], y + side) - max(box[1], y))
    return width * height / side**2


def slow_mean(shares, rows):
    """The mean of rows (n, D), weighted by shares."""
    return sum(share * row for share, row in zip(shares, rows, strict=True)) / sum(shares)


def slow_intra(v, m, tau):
    """The loss of one page by loops, in rows and in columns, of lists of vectors."""
    count = len(v)
    S = [[cosine(v[i], m[j]) / tau for j in range(count)] for i in range(count)]
    rows = columns = 0.0
    for n in range(count):
        rows += math.log(sum(math.exp(S[n][j]) for j in range(count))) - S[n][n]
        columns += math.log(sum(math.exp(S[i][n]) for i in range(count))) - S[n][n]
    return rows / count, columns / count


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
