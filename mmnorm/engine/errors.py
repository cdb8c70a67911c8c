"""The error of the command line: something that the user gave, or that is missing, and what to do about it."""


class UsageError(Exception):
    """A message for the user, complete without a traceback."""
