"""OpenAI's responses: conversations of which the server keeps the turns."""
