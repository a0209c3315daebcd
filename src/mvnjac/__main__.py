"""`python -m mvnjac`: the command line."""

from mvnjac.cli import main

main()
