"""The engine by itself, offline: throughput and latency on dummy weights, beside its peers."""
