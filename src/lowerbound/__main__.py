"""`python -m lowerbound`, which torchrun starts many times: the command `lowerbound`."""

from lowerbound.cli import main

if __name__ == "__main__":
    main()
