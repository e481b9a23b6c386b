"""`python -m helexa` is the cortex command line."""

from helexa.cli.cortex import main

if __name__ == "__main__":
    main()
