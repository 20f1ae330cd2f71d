"""Scores of backbones before any of them is trained."""
