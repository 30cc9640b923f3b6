"""`python -m diptych`: the command line, as torchrun and accelerate start it."""

import sys

from diptych.cli import main

if __name__ == "__main__":
    sys.exit(main())
