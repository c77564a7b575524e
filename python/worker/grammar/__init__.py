"""Grammars that answers are held to: backends behind one interface, compiled beside the engine."""
