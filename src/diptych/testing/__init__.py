"""The public contract suite for methods: `diptych.testing.check_method`."""

from diptych.testing.check import check_method
from diptych.testing.ranks import Ranks
from diptych.testing.toy import Toy

__all__ = ["Ranks", "Toy", "check_method"]
