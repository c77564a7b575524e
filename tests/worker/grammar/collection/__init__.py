"""Schemas, regular expressions and grammars of every feature, and how each is checked."""
