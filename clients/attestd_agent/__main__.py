"""`python -m attestd_agent`."""

from attestd_agent.cli import main

main()
