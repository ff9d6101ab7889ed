"""A page to play with samplers: in a folder without a server, or live."""

from .build import build
from .choice import Choice
from .server import make_app, serve

__all__ = ["Choice", "build", "make_app", "serve"]
