"""The D2S network, its losses and its model files."""
