"""``python -m softmark`` does what the command ``softmark`` does."""

from softmark.commands.main import main

if __name__ == "__main__":
    main()
