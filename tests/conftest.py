"""What holds for all tests."""

import os
import signal
from pathlib import Path

# A shell that starts the tests in the background has SIGINT ignored, and every process that they
# start would inherit that: Ctrl-C could not be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Without a GPU, Triton's kernels run on CPU tensors in its interpreter. Triton asks when it is
# imported, and transformers imports it: so this comes before every test.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"
