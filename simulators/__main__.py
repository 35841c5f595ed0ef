"""`python -m simulators` is `linesim`."""

from simulators.cli import main

main()
