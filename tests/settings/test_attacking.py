"""Fields of attacks have ranges, and a wrong one is named with its meaning."""

import pytest

from mmu_jax.errors import UserError
from mmu_jax.settings import attacking
from mmu_jax.settings import rules


@pytest.mark.parametrize(
  'field, value',
  [
    ('steps', (-1,)),
    ('steps', ()),
    ('rows', 0),
    ('models', 'vanilla'),
    ('cases', {'a': {'learns': 'faces'}}),
    ('cases', {'a': {'rate': 0}}),
  ],
)
def test_a_wrong_value_is_refused_with_its_rule(field, value):
  with pytest.raises(
    UserError, match=rf'attacks.relearn.{field}.* is .*\(.+\)'
  ):
    rules.check({'relearn': {field: value}}, attacking.ATTACKS, 'attacks')
