"""What goes wrong with input, in a module that loads nothing: numerical code names its errors without the contracts."""


class InputError(ValueError):
    """Raw input that cannot be used; the message names the file, the column, the row, and the remedy."""


class AwaitedError(InputError):
    """Raw input that is not there yet; a later run may find it."""
