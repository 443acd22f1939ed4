"""The error tree: whether a failure may be retried is a type, not a flag.

Everything public of the modules below is imported from here.
"""

from hilum.errors.feedback import *
from hilum.errors.films import *
from hilum.errors.general import *
from hilum.errors.models import *
from hilum.errors.services import *
from hilum.errors.storage import *
from hilum.errors.tree import *
