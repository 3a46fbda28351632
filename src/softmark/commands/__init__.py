"""The words of the command ``softmark``, a module each."""
