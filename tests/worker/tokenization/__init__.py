"""Tests of worker.tokenization."""
