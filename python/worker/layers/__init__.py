"""Layers that decoders are built from.

Weights are made empty, in torch's default device and dtype.
"""
