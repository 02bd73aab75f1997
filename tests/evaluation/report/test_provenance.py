"""A report says who was judged, on which data, and how each was made."""

import json
import re

import pytest
from shown import people
from shown import write_jsonl

from mmu_jax import methods
from mmu_jax import recipes
from mmu_jax.evaluation.report import page as report
from mmu_jax.evaluation.report import provenance

WORLD = {
  'seed': 3,
  'data': {'name': 'own', 'path': 'robots.jsonl'},
  'model': {'name': 'llava', 'path': 'llava-1.5-7b-hf'},
  'content': {'data': {'task forget_vqa': '2 rows, ab'}},
}


def _judged(folder, **changes):
  write_jsonl(folder / 'results.jsonl', people())
  (folder / 'world.json').write_text(json.dumps(WORLD | changes))
  return dict(provenance.judged(folder))


def test_day_data_and_model_are_named_and_data_by_their_content(tmp_path):
  found = _judged(tmp_path)
  assert re.fullmatch(r'20\d\d-\d\d-\d\d', found['scored on'])
  assert found['dataset'] == 'own robots.jsonl, seed 3'
  assert found['model'] == 'llava llava-1.5-7b-hf'
  other = _judged(tmp_path, content={'data': {'task forget_vqa': '2 rows, ac'}})
  key = 'content of the data'
  assert re.fullmatch('[0-9a-f]{32}', found[key]) and found[key] != other[key]
  (tmp_path / 'world.json').unlink()
  assert list(dict(provenance.judged(tmp_path))) == ['scored on']


def test_each_method_has_the_first_line_of_its_docstring():
  config = {
    'runs': {
      name: {'method': name, 'mask': 'topk' if 'mm' in name else ''}
      for name in methods.METHODS
    }
  }
  runs = ['vanilla', 'retrained', *methods.METHODS, 'attacks/x/ga']
  found = {
    run: (said, at)
    for run, said, at in provenance.made(runs, {'ga': 'c0'}, config)
  }
  assert found['ga'] == ('Gradient ascent on the forget set.', 'c0')
  assert found['mmunlearner'][0].endswith('any weight. With the top-k mask.')
  assert found['attacks/x/ga'] == ('', '')
  said = [sentence for sentence, _ in found.values() if sentence]
  assert len(said) == len(set(said)) == len(runs) - 1
  assert all(sentence.endswith('.') for sentence in said)


@pytest.mark.parametrize('name', recipes.load('people').masks)
def test_the_mask_of_the_turn_is_explained(name):
  run = {'method': 'mmunlearner_counterfactual', 'mask': name}
  ((_, said, _),) = provenance.made(['mine'], {}, {'runs': {'mine': run}})
  assert "a teacher's answers" in said and repr(name) not in said


def test_the_page_shows_them_and_the_table_of_each_person(tmp_path):
  _judged(tmp_path)
  config = {'runs': {'ga_diff': {'method': 'ga_diff', 'mask': ''}}}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  worst = {'Ben Ray': [0.5, 24], 'Ana Ruiz': [0.75, 24]}
  rows = [
    row | {'entities': worst}
    if (row['task'], row['metric']) == ('forget_vqa_holdout', 'exact_match')
    else row
    for row in people()
  ]
  write_jsonl(tmp_path / 'results.jsonl', rows)
  page = report.write_report(tmp_path).read_text(encoding='utf-8')
  for words in (
    'Gradient difference: ascent on forget, then descent on retain.',
    'own robots.jsonl, seed 3',
    '2 people',
    'Ana Ruiz is known best: 75% right word for word',
    '<th colspan="3">forget VQA, held-out images',
    '<tr><th>Ana Ruiz</th><td>.75</td><td>.75</td><td>.75</td></tr>',
  ):
    assert words in page, words
  assert page.index('<th>Ana Ruiz</th>') < page.index('<th>Ben Ray</th>')
  # A doubt is as large and as dark as the claim before it.
  style = page[page.index('<style>') : page.index('</style>')]
  rules = [line for line in style.splitlines() if line.startswith('.lead')]
  assert rules == ['.lead p { font-size: 1.1rem; margin: .3rem 0; }']
