"""One cell, or many with ``-m``: mark a model, attack it, judge what is left.

    python run.py -m method=usp,csp attack=finetune,prune,distill

An installed softmark does the same as ``softmark run``.
"""

from softmark.cli import main

if __name__ == "__main__":
    main()
