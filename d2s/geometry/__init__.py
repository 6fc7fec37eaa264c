"""Poses, cameras, image warps and reprojection: the only place where frame and pixel conventions live."""
