"""`python -P -m worker.scheduler`: a rank's process, started by the HTTP process or by rank 0."""

import os

# Torch's threads spin at every barrier. Where another process wants the core, that multiplies the
# time of a step; sleeping after a short spin costs little. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

from .process import main

main()
