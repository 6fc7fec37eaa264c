"""Descriptor matching: mutual nearest neighbours, LightGlue."""
