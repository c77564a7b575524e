"""The public face of radixfleet."""
