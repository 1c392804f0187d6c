"""MOVED to models/common/moments.py (tasks need it, and tasks name no family): edit there; this shim goes away."""

from models.common.moments import *  # noqa: F403
from models.common.moments import Moments, merge, moments  # noqa: F401
