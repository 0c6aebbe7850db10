"""Sampling a block: filters, draws, and the loops that take lanes from token to token."""
