"""Structure from motion: pairs, the native pycolmap path, the hloc path."""
