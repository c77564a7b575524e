"""Files that clients upload, and batches of requests read from them."""
