"""The one error that is the user's to mend, and the end of a program that was asked for."""

from __future__ import annotations


class UserError(ValueError):
    """What was asked cannot be done: says what was asked, what was found and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class Ended(SystemExit):
    """The program ends as it was asked to, by a signal or for its help; not by a part that calls sys.exit."""
