"""`python -m diptych.testing NAME [--golden FILE]`: run the contract suite, or store a method's
golden losses."""

import argparse
import sys
from pathlib import Path

from diptych.errors import InputError
from diptych.testing.check import check_method, write_golden

parser = argparse.ArgumentParser(prog="python -m diptych.testing", description=__doc__)
parser.add_argument("name", help="a method that `diptych list` shows, or the file of your own")
parser.add_argument("--golden", type=Path, help="store the losses of 20 steps in this file")
arguments = parser.parse_args()
try:
    if arguments.golden:
        write_golden(arguments.name, arguments.golden)
    else:
        check_method(arguments.name)
        print(f"{arguments.name} keeps the contract")
except (InputError, AssertionError) as error:
    if not str(error):
        raise  # an assertion in the method's code, whose traceback is its only message
    print(f"{arguments.name}: {error}", file=sys.stderr)
    sys.exit(2 if isinstance(error, InputError) else 1)
