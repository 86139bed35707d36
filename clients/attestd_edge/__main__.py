"""`python -m attestd_edge` is `attestd-edge`."""

from attestd_edge.cli import main

if __name__ == "__main__":
    main()
