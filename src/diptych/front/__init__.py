"""The functions that `import diptych` gives: load, train, embed, search and the like. The command
line calls them too, or the same code below them."""
