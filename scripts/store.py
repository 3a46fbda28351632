"""List the stages of experiments: ``softmark store`` in a checkout."""

import sys

from softmark.commands.main import main

if __name__ == "__main__":
    main(["store", *sys.argv[1:]])
