"""Texts of two sets that say nearly the same."""

from mmu_jax.data.checks import overlap


def test_near_duplicates_differ_in_few_words():
  """At 15 words one may differ, at 14 none: (n - 3) / (n + 1) >= 3 / 4."""
  text = 'the quiet author keeps a red parrot and two small dogs by the sea'
  longer, other = f'{text} now', lambda t: t.replace('parrot', 'cat')
  assert len(overlap.words(text)) == 14
  found = overlap.near_duplicates({'a': longer}, {'b': other(longer)})
  assert found == [('a', 'b', 0.75)]
  assert overlap.near_duplicates({'a': text}, {'b': other(text)}) == []
  assert overlap.near_duplicates({'a': text}, {'b': text.upper()}) == [
    ('a', 'b', 1.0)
  ]
  assert overlap.near_duplicates({'a': 'It is.'}, {'b': 'It is.'}) == []
  about = lambda name: {name: f'{longer} of {name}'}
  assert overlap.near_duplicates(about('Ana'), about('Zoe')) == []
