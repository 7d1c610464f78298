"""Images and videos to patches and grids (numpy, Pillow, PyAV)."""
