"""Laws of error over compute, fitted to training runs, and what they say (Nezhurina et al., 2025).

Two methods, or two data sets, that are compared at one scale may compare otherwise at another. So
each has a grid of runs, its best runs for their compute give a law, and laws are compared: where
they cross, and what they predict of runs that are larger than any they were fitted to.
"""

from diptych.lab.scaling.analysis import (
    Bootstrap,
    Crossing,
    Fit,
    HeldOut,
    best_samples,
    bootstrap,
    crossings,
    held_out,
)
from diptych.lab.scaling.frontier import frontier
from diptych.lab.scaling.laws import Law, fit_law
from diptych.lab.scaling.report import Report, analyse, write_page
from diptych.lab.scaling.runs import Limits, Runs, read_runs

__all__ = [
    "Bootstrap",
    "Crossing",
    "Fit",
    "HeldOut",
    "Law",
    "Limits",
    "Report",
    "Runs",
    "analyse",
    "best_samples",
    "bootstrap",
    "crossings",
    "fit_law",
    "frontier",
    "held_out",
    "read_runs",
    "write_page",
]
