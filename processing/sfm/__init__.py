"""Structure from motion: pairs, and the native path through pycolmap."""
