"""The errors that are told in one line."""


class UserError(Exception):
    """Wrong input: one line that names the flag, file or row and says what to do. Commands print it and exit with status 2."""


class RunStopped(Exception):
    """A run that ended itself, since going on would not have helped: one line that says why. Exit status 1."""


class Preempted(Exception):
    """A run that was asked to end and did so with what it had: one line that says how it goes on. Exit status 75, EX_TEMPFAIL."""
