"""Judge a suspect: ``softmark verify`` in a checkout."""

import sys

from softmark.commands.main import main

if __name__ == "__main__":
    main(["verify", *sys.argv[1:]])
