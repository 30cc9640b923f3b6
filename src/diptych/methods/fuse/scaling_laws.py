"""Scaling laws for the comparison of methods and data sets (Nezhurina et al., 2025).

    L(C) = A (C + B)^a + E

A grid of runs of each method, the best of them for their compute, a law fitted to these, and the
comparison of two laws: where they cross, and what they predict of larger runs. This is an analysis,
of `diptych.lab.scaling` and `diptych scaling`; the method that the paper trains beside CLIP is
`mammut`.
"""

card = {
    "title": "Scaling Laws for Robust Comparison of Open Foundation Language-Vision Models and Datasets",
    "year": 2025,
    "kind": "analysis",
    "entry": "scaling",
    "provenance": "code",
}
