"""`python -P -m linewatch`: the command line."""

from linewatch.commands.cli import main

if __name__ == "__main__":
    main()
