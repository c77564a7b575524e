"""`python -m radixfleet`: the `radixfleet` command."""

from .cli import main

main()
