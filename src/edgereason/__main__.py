"""`python -m edgereason` is the command `edgereason`."""

from edgereason.cli.main import main

if __name__ == "__main__":
    main()
