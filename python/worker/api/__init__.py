"""The HTTP process: turns HTTP into messages for the scheduler, and messages into HTTP."""
