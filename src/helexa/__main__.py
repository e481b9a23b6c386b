"""`python -m helexa` is the cortex command line."""

from helexa.cli.entry import cortex

if __name__ == "__main__":
    cortex()
