"""The helper of this name, for scripts that have ``tests/`` on their path."""

import importlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / 'helpers'))
del sys.modules[__name__]
sys.modules[__name__] = importlib.import_module(__name__)
