"""`attestd`, and `python -m attestd`. The command line is loaded when it is called: multiprocessing has every worker
run the script that was started, and none of them needs it."""


def main() -> None:
    """The console script's entry point."""
    from attestd.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
