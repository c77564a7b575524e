"""Tests of everything together, with real models."""
