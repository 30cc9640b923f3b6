"""Names of a BERT layer that also attends to an image, as published weights have them and as ours are."""

from diptych.models.pretrained.convert import Rule

_W = r"(?P<w>weight|bias)"


def fused_layer(attention: str) -> list[Rule]:
    """The rules of a layer with self-attention, cross-attention and a feed-forward layer, whose queries, keys
    and values are in the module `attention` (`self` in BERT, `attention` in BLIP-2's Q-Former)."""
    parts = (("query", "q"), ("key", "k"), ("value", "v"))
    return [
        *(
            Rule(rf"{theirs}\.{attention}\.{long}\.{_W}", (rf"{ours}.{short}.\g<w>",))
            for theirs, ours in (("attention", "attn"), ("crossattention", "cross"))
            for long, short in parts
        ),
        Rule(rf"attention\.output\.dense\.{_W}", (r"attn.out.\g<w>",)),
        Rule(rf"attention\.output\.LayerNorm\.{_W}", (r"norm1.\g<w>",)),
        Rule(rf"crossattention\.output\.dense\.{_W}", (r"cross.out.\g<w>",)),
        Rule(rf"crossattention\.output\.LayerNorm\.{_W}", (r"norm_cross.\g<w>",)),
        Rule(rf"intermediate\.dense\.{_W}", (r"mlp.fc1.\g<w>",)),
        Rule(rf"output\.dense\.{_W}", (r"mlp.fc2.\g<w>",)),
        Rule(rf"output\.LayerNorm\.{_W}", (r"norm2.\g<w>",)),
    ]
