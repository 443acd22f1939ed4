"""The error tree: whether a failure may be retried is a type, not a flag."""

from hilum.errors.kinds import *
from hilum.errors.tree import *
