"""Several processes that compute one model: which part is whose, and how they exchange results."""
