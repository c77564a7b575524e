"""Simulated workers behind the router's real policies: how a policy is chosen, and proved."""
