"""The one error that is the user's to mend."""

from __future__ import annotations


class UserError(ValueError):
    """What was asked cannot be done: says what was asked, what was found and what to do.

    The command line prints it without a traceback and exits with status 2.
    """
