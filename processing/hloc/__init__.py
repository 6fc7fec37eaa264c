"""Everything that knows hloc (Hierarchical-Localization): its files, its Python functions, and where the two go wrong."""
