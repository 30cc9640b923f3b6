"""Pages on which to look at data, runs and embeddings: `diptych view` and `diptych data show`.

One HTML generator writes both a file that holds its pictures and pages of a server that give them
addresses. The pages need no script.

    document  the frame of a page: head, style, links to its sections
    pictures  the pictures of a sample: images with boxes, masks in colours, depth, edits
    cards     a sample as HTML
    subject   what a page is about: sources, and sections
    checked   the sections on a source: what `check` finds, classes, fields
    trained   the sections on a run: its curves and its worst mistakes
    embedded  a folder of embeddings as a source
    file      one self-contained file
    app       the pages of the server
"""
