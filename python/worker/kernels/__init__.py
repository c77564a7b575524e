"""Triton kernels, each with its PyTorch reference.

Triton is imported with them: whoever uses one imports it behind the check for a GPU.
"""
