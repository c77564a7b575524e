"""Attention backends: one a file behind one interface (`base.AttentionBackend`)."""
