"""Write the probes of a key: ``softmark probes`` in a checkout."""

import sys

from softmark.commands.main import main

if __name__ == "__main__":
    main(["probes", *sys.argv[1:]])
