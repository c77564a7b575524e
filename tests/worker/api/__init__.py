"""Tests of worker.api."""
