"""Whole parameter trees: every kernel drawn by a scheme, with fans read from use."""

from jaxinit.tree._draw import draw_kernels as draw_kernels
from jaxinit.tree._draw import path_keys as path_keys
