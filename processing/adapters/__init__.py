"""One file per data set format, each giving the same SceneSource."""
