"""Write tables of experiments: ``softmark report`` in a checkout."""

import sys

from softmark.commands.main import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
