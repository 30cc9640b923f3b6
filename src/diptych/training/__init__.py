"""Training: the engine and everything around it. `run` is what `diptych train` and `diptych.train`
call."""
