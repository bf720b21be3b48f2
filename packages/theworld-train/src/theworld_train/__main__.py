"""``python -m theworld_train`` is the command ``theworld``: launchers start modules."""

from theworld_train.cli import main

if __name__ == "__main__":
    main()
