"""KV memory: slots, the radix tree over token ids that reuses them, and who holds which."""
