"""Training: the engine and its parts. `diptych train` and `diptych.train` call `run`."""
