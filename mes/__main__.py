"""`python -m mes`."""

from mes.cli import main

main()
