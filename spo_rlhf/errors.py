"""The error that is the user's to mend."""


class UserError(Exception):
    """Wrong input: one line that names the flag, file or row and says what to do. Commands print it and exit with status 2."""
