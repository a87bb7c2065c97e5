"""`python -m sparse_ops`: the command line."""

from sparse_ops.cli import main

if __name__ == "__main__":
    main()
