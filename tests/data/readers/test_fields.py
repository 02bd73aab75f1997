"""Values of a file must have the form that a reader takes."""

import pytest

from mmu_jax.data.readers import fields

FORM = {'ID': fields.WORDS, 'tasks': [{'name': fields.TEXT}], 'more': [str]}


@pytest.mark.parametrize(
  'value',
  [
    None,
    {},
    {'ID': 3.0, 'tasks': []},
    {'tasks': [{'name': None}], 'more': 'a'},
  ],
)
def test_null_missing_fields_and_one_text_for_a_list_are_right(value):
  fields.check_form(value, FORM, 'row 0')


@pytest.mark.parametrize(
  'value, message',
  [
    ({'ID': []}, r'ID of row 7 is text or a number, got \[\] \(list\)'),
    ({'tasks': {}}, 'tasks of row 7 is a list, got {}'),
    ({'tasks': [None]}, r'tasks\[0\] of row 7 is an object, got None'),
    ({'tasks': [{'name': 2}]}, r'tasks\[0\].name of row 7 is text, got 2'),
  ],
)
def test_another_form_names_the_field_and_the_row(value, message):
  with pytest.raises(ValueError, match=message):
    fields.check_form(value, FORM, 'row 7')
