"""Ctrl-C and a closed terminal while a model trains."""

import errno
import os
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diptych.cli._screen import say


@contextmanager
def interruptible() -> Iterator[Any]:
    """Let Ctrl-C and a closed terminal ask the engine to save and stop, as SIGTERM does; a second
    Ctrl-C stops at once.

    Yields a function that returns whether there was a Ctrl-C. Processes forked from this one also
    receive it from the terminal, and continue until the engine ends them.
    """
    owner = os.getpid()
    pressed = False
    launched = (
        "TORCHELASTIC_RUN_ID" in os.environ
    )  # torchrun forwards each Ctrl-C in addition to the terminal

    def first(number: int, frame: Any) -> None:
        nonlocal pressed
        if os.getpid() != owner:
            return
        if pressed and launched:
            return
        if pressed or not callable(
            signal.getsignal(signal.SIGTERM)
        ):  # the engine has no handler yet, or no longer
            raise KeyboardInterrupt
        pressed = True
        say("stopping after this step; Ctrl-C again stops at once")
        signal.raise_signal(signal.SIGTERM)

    def hung_up(number: int, frame: Any) -> None:
        if os.getpid() != owner:
            return
        _leave_terminal()
        if not callable(signal.getsignal(signal.SIGTERM)):
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGTERM)

    previous = {signal.SIGINT: signal.signal(signal.SIGINT, first)}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, hung_up)
    try:
        yield lambda: pressed
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave_terminal() -> None:
    """Redirect the output of a closed terminal to the null device: each write would be an error."""
    for stream in (1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
