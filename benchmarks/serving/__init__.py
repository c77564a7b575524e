"""Load on a running server over HTTP, and the latencies that its clients see."""
