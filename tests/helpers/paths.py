"""Where the tests find this checkout, and the third-party facts beside it."""

import pathlib

TESTS = pathlib.Path(__file__).parents[1]
ROOT = TESTS.parent
CONFIGS = ROOT / 'configs'
GOLDEN = TESTS / 'golden'  # arrays of the published code
REFERENCE = ROOT.parent / 'shared' / 'reference'  # may be absent
HUB = ROOT.parent / 'shared' / 'families' / 'hub'  # lists of tensors, likewise
