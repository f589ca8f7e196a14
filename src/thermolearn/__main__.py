"""`python -m thermolearn`: the command line."""

from thermolearn.cli import main

if __name__ == "__main__":
    main()
