"""Text to token ids and back: tokenizers, chat templates, detokenization, stop strings."""
