"""``python -m softmark`` does what ``python run.py`` does in a checkout."""

from softmark.cli import main

if __name__ == "__main__":
    main()
