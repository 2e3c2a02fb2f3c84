"""Whole parameter trees: rules, draws in place, and fans read from use."""

from jaxinit.tree._describe import Description as Description
from jaxinit.tree._describe import describe as describe
from jaxinit.tree._draw import path_key as path_key
from jaxinit.tree._init import init as init
from jaxinit.tree._leaves import leaves_of as leaves_of
from jaxinit.tree._reinit import draw as draw
from jaxinit.tree._reinit import reinit as reinit
from jaxinit.tree._rules import choose as choose
from jaxinit.tree._rules import layers_of as layers_of
