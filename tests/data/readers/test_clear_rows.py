"""Rows of CLEAR: list columns, whatever they hold."""

from mmu_jax.data.readers import clear_rows


def test_empty_and_repeated_texts_of_a_list_are_left_out():
  values = [' a ', 'b', None, '', 'a']
  assert clear_rows.texts(values) == ('a', 'b')
  assert clear_rows.texts('a') == ('a',) and clear_rows.texts(None) == ()
