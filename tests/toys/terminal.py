"""A process as a terminal starts it."""

import signal


def hear_ctrl_c() -> None:
    """As ``preexec_fn``: what a shell starts in the background, and a process of pytest-xdist, ignores Ctrl-C.

    All that such a process starts would ignore it, too.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
