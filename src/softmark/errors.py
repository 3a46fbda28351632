"""The one exception whose message is written for the person who typed the command."""


class InputError(ValueError):
    """A value that cannot be used: the message names it, where it came from and what would do.

    ``run.py`` prints the message alone, without a traceback.

    Example:
        >>> softmark.new_key("", classes=10, probes=inputs)
        Traceback (most recent call last):
        softmark.errors.InputError: message='': name the customer or the licence
    """
