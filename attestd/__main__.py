"""`python -m attestd` is the `attestd` command."""

from attestd.cli.main import main

if __name__ == "__main__":
    main()
