"""The small trees of pictures of ``picture_trees.py`` as fixtures."""

from picture_trees import make_jpeg as make_jpeg
from picture_trees import make_picture as make_picture
from picture_trees import no_fsync as no_fsync
from picture_trees import tree as tree
