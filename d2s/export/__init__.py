"""Scenes and learnt maps as files of other programs: COLMAP models, PLY, nerfstudio."""
