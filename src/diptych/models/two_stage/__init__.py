"""A two-stage detector of any classes on a dual encoder.

windows.py     attention in windows, and a shifted copy
pyramid.py     pyramid, box head, pooling
proposals.py   boxes that do not depend on classes
boxes.py       losses and scores of boxes
masks.py       the branch for the masks of objects
sampling.py    which boxes are learnt from
detector.py    the module; model.py what it is for images
"""
