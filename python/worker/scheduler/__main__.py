"""`python -P -m worker.scheduler`: the scheduler process, started by the HTTP process."""

from .process import main

main()
