"""`python -m cluster` is the command `moot`."""

from cluster.cli.app import main

if __name__ == "__main__":
    main()
