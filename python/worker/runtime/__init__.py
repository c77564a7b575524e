"""The runtime: weights, KV memory and the forward pass. The only room that owns device memory."""
