"""Timing, comparing and describing: what `bench`, `verify` and `doctor` are made of."""
