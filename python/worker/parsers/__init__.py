"""What models write in formats of their own, as it comes: calls of tools, and their reasoning."""
