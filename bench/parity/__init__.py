"""Graphs beside their source libraries: exactness, size, speed."""
