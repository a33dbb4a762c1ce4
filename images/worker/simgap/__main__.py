"""`python -m simgap`: how a pod and a local process start the program."""

from simgap.cli import main

main()
