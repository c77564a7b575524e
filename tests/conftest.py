"""What holds for all tests."""

import signal

# A shell that starts the tests in the background has SIGINT ignored, and every process that they
# start would inherit that: Ctrl-C could not be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
