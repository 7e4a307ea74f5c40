"""Trains the detector and the learned blur."""
