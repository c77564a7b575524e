"""One format of tool calls a file."""
