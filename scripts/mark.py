"""Mark a model of your own: ``softmark mark`` in a checkout."""

import sys

from softmark.commands.main import main

if __name__ == "__main__":
    main(["mark", *sys.argv[1:]])
