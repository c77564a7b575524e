"""Model families: one file a family, a registry, and the configuration they are built from."""
