"""MLLMU-Bench and CLEAR are shown as their papers lay them out."""

import functools
import io
import json
import re

import answered
import numpy as np
import pytest
from results import result
from rich.console import Console

from mmu_jax.evaluation.report import layouts
from mmu_jax.evaluation.report import page as report
from mmu_jax.evaluation.report import plots
from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report import summary
from mmu_jax.evaluation.report import table

ACCURACY = {
  'forget_vqa': (0.51, 0.35, 0.33),
  'forget_vqa_holdout': (0.47, 0.29, 0.31),
  'retain_vqa': (0.48, 0.48, 0.45),
  'real_vqa': (0.53, 0.52, 0.51),
  'forget_qa': (0.40, 0.38, 0.32),
  'retain_qa': (0.39, 0.39, 0.38),
  'real_qa': (0.55, 0.55, 0.54),
}
RUNS = ('vanilla', 'retrained', 'mmunlearner')
SIZES = {'accuracy': 125, 'rougeL': 100, 'cloze': 50}


def _row(run, task, metric, value, n=100, margin=0.04, layout='mllmu_bench'):
  return result(run, task, metric, value, n=n, margin=margin, layout=layout)


def _mllmu():
  return [
    _row(run, task, metric, values[i] - shift, n)
    for i, run in enumerate(RUNS)
    for shift, (metric, n) in zip((0, 0.1, 0.2), SIZES.items())
    for task, values in ACCURACY.items()
  ] + [_row(run, 'all', 'model_utility', 0.4, 15) for run in RUNS]


_clear_row = functools.partial(_row, layout='clear')


def _clear():
  found = []
  for i, run in enumerate(RUNS):
    for task in ('forget_vqa', 'retain_vqa', 'real_faces', 'real_world'):
      value = (0.7, 0.4, 0.36)[i] if task == 'forget_vqa' else 0.68
      found += [
        _clear_row(run, task, m, value, 188) for m in ('accuracy', 'choice')
      ]
    for task in ('forget_vqa', 'forget_qa', 'retain_vqa', 'retain_qa'):
      found.append(_clear_row(run, task, 'rougeL', 0.4, 200))
    ratio = _clear_row(run, 'forget_vqa', 'truth_ratio_forget', 0.6, 188)
    found.append(ratio)
    found.append(_clear_row(run, 'all', 'model_utility', 0.45, 7))
  return found + [
    _clear_row(run, 'forget_vqa', 'forget_quality', p, 188, 0)
    for run, p in (('vanilla', 3.2e-12), ('mmunlearner', 0.21))
  ]


BENCHMARKS = {'mllmu': _mllmu, 'clear': _clear}


def _printed(results, width):
  console = Console(width=width, record=True, file=io.StringIO())
  console.print(table.results_table(results))
  return console.export_text()


def test_the_layout_is_the_one_that_the_scores_name():
  people = [result('ga', 'forget_qa', m, 1) for m in ('exact_match', 'cloze')]
  assert layouts.find_layout(people) is layouts.PEOPLE
  assert layouts.find_layout(_mllmu()) is layouts.MLLMU_BENCH
  assert layouts.find_layout(_clear()) is layouts.CLEAR
  for wrong in ([], [{'task': 'forget_qa'}], people + _clear()):
    with pytest.raises(ValueError, match='run `mmu evaluate` again'):
      layouts.find_layout(wrong)


@pytest.mark.parametrize(
  'layout', [layouts.PEOPLE, layouts.MLLMU_BENCH, layouts.CLEAR]
)
def test_a_layout_speaks_of_its_own_columns(layout):
  columns = [c for block in layout.blocks for c in block.columns]
  keys = [c.key for c in columns]
  assert len(set(keys)) == len(keys)
  told = {layout.forget.key, layout.text.key, *dict(layout.kept)}
  assert told <= set(keys)
  assert all(len(w) <= 6 for c in columns for w in c.short.split())


def test_mllmu_bench_has_a_table_for_each_measure():
  blocks = scored.shown_blocks(_mllmu())
  assert [block.title for block in blocks] == [
    'classification, accuracy',
    'generation, ROUGE-L',
    'cloze, accuracy',
    'the model as a whole',
  ]
  wanted = [f'{c.title} {c.wanted}' for c in blocks[0].columns]
  assert wanted == [
    'forget VQA ↓',
    'test VQA ↓',
    'retain VQA ↑',
    'real VQA ↑',
    'forget QA ↑',
    'retain QA ↑',
    'real QA ↑',
  ]


def test_clear_has_names_captions_text_and_the_real_world_in_one_table():
  first, *others = scored.shown_blocks(_clear())
  tasks = scored.tasks_in(_clear())
  shown = [(c.about.find(tasks).name, c.metric) for c in first.columns]
  assert shown == [
    ('forget_vqa', 'accuracy'),
    ('forget_vqa', 'rougeL'),
    ('forget_qa', 'rougeL'),
    ('retain_vqa', 'accuracy'),
    ('retain_vqa', 'rougeL'),
    ('retain_qa', 'rougeL'),
    ('real_faces', 'accuracy'),
    ('real_world', 'accuracy'),
  ]
  keys = [c.key for block in others for c in block.columns]
  assert keys == [
    'name_choice',
    'quality',
    'truth_forget',
    'utility',
    'distance',
  ]


def test_the_distance_is_the_mean_over_accuracy_rouge_and_cloze():
  cells = scored.rows(_mllmu())['mmunlearner']
  # .02 + .02 + .03 + .01 + .06 + .01 + .01 over seven tasks, the same thrice.
  assert cells['distance'].value == pytest.approx(0.16 / 7)
  assert cells['utility'] == pytest.approx((0.4, 0.36, 0.44, 15))
  clear = scored.rows(_clear())['mmunlearner']
  assert clear['distance'].value == pytest.approx(0.04 / 8)


@pytest.mark.parametrize('name', BENCHMARKS)
@pytest.mark.parametrize('width', [80, 140])
def test_terminals_show_whole_names_and_values(name, width):
  text = _printed(BENCHMARKS[name](), width)
  assert max(map(len, text.split('\n'))) <= width
  rows = [line.split() for line in text.split('\n')]
  values = {
    'mllmu': '.33 .31 .45 .51 .32 .38 .54',
    'clear': '.36 .40 .40 .68 .40 .40 .68 .68',
  }
  assert ['mmunlearner', *values[name].split()] in rows
  assert 'protocol fixed, zero-shot' in text
  assert 'n=125' in text or 'n=188' in text
  bounds = '[.29 .37]' if name == 'mllmu' else '[.32 .40]'
  assert width == 80 or bounds in text


def test_a_small_p_value_keeps_its_power():
  assert '3e-12' in _printed(_clear(), 80)
  assert '3e-12 [3e-12, 3e-12]' in table.markdown_table(_clear())


def test_factuality_has_its_own_table_and_one_decimal():
  for results in (_mllmu(), _clear()):
    judged = [
      _row(r, 'forget_qa', 'factuality', 7.26, layout=results[0]['layout'])
      for r in RUNS
    ]
    text = table.markdown_table(results + judged)
    assert '**generation, factuality by a judge (1 to 10)**' in text
    assert '| vanilla | 7.3 [7.2, 7.3] |' in text


def test_markdown_has_a_table_for_each_block_and_says_the_protocol():
  text = table.markdown_table(_mllmu())
  assert text.count('| --- |') == 4
  assert text.index('**cloze, accuracy**') > text.index('**generation')
  assert 'forget VQA ↓ (n=125)' in text and 'Protocol fixed, zero-shot' in text


@pytest.mark.parametrize(
  'asked, words',
  [
    ([], ''),
    ([('plain', 0)], 'protocol plain, zero-shot'),
    ([('fixed', 1)] * 2, 'protocol fixed, shots of 1 person'),
    (
      [('fixed', 2), ('official_clear', 0)],
      'protocol fixed, shots of 2 '
      'people and protocol official_clear, zero-shot',
    ),
  ],
)
def test_protocol_and_shots_are_said_as_the_scores_have_them(asked, words):
  rows = [{'protocol': name, 'shots': shots} for name, shots in asked]
  assert table.asked_by(rows) == words


def test_the_summary_says_shares_scores_and_doubt():
  said = ' '.join(summary.headline(_mllmu()))
  assert 'new pictures of them: 31% right, 47% before, 29% in' in said
  assert 'lost a little of what it knows' in said
  assert 'before and after overlap' not in said  # .31 +- .04 and .47 +- .04
  close = [
    row | {'low': row['value'] - 0.09, 'high': row['value'] + 0.09}
    for row in _mllmu()
  ]
  doubt = 'In test VQA, accuracy and in forget QA, accuracy the 95 % intervals'
  assert doubt in ' '.join(summary.headline(close))
  clear = ' '.join(summary.headline(_clear()))
  assert 'choosing their name for a picture: 36% right, 70% before' in clear
  assert 'ROUGE-L of answers in text: .40, .40 before' in clear
  assert 'With four answers' not in clear


def test_a_retrained_model_above_chance_is_no_trace_in_others():
  choice = lambda run, value: _row(run, 'forget_vqa_holdout', 'choice', value)
  results = _mllmu() + [choice('retrained', 0.40), choice('mmunlearner', 0.36)]
  said = ' '.join(summary.headline(results))
  assert 'more than chance, as without their pictures' in said


@pytest.mark.parametrize('name', BENCHMARKS)
def test_the_tradeoff_shows_forget_against_retain_around_the_scores(name):
  results = BENCHMARKS[name]()
  left, right = plots.tradeoff(results).axes
  assert left.get_ylabel().startswith('retain VQA')
  assert right.get_ylabel().startswith('forget QA')
  for ax in (left, right):
    assert {text.get_text() for text in ax.texts} == set(RUNS)
    low, high = ax.get_xlim()
    assert 0 < low < 0.33 and 0.47 < high < 0.85


def test_every_compared_score_has_a_panel():
  titles = [
    ax.get_title('left')
    for ax in plots.bars(_mllmu()).findobj(
      lambda x: hasattr(x, 'get_title') and hasattr(x, 'barh')
    )
  ]
  assert len([t for t in titles if t]) == 21
  assert sum('chance' in t for t in titles) == 7


def _write(folder, name, rows):
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


@pytest.mark.parametrize('name', BENCHMARKS)
def test_a_report_shows_every_block_and_how_it_was_asked(tmp_path, name):
  results = BENCHMARKS[name]()
  _write(tmp_path, 'results.jsonl', results)
  page = report.write_report(tmp_path).read_text(encoding='utf-8')
  for block in scored.shown_blocks(results):
    assert f'<h3>{block.title[0].upper()}{block.title[1:]}</h3>' in page
  assert 'Asked by protocol fixed, zero-shot' in page
  assert 'mmu train</code> makes it' in page
  assert 'word for word' not in page
  assert len(re.findall('data:image/png', page)) == 2


def test_scores_of_an_earlier_version_are_refused(tmp_path):
  for field in ('split', 'role', 'headline', 'layout', 'protocol'):
    old = [{k: v for k, v in r.items() if k != field} for r in _mllmu()]
    _write(tmp_path, 'results.jsonl', old)
    with pytest.raises(ValueError, match=f'{field} missing .*mmu evaluate'):
      report.write_report(tmp_path)


def test_cards_of_sentences_tell_how_near_they_are(tmp_path):
  _write(tmp_path, 'results.jsonl', _mllmu())
  photo = np.zeros((900, 600, 3), np.uint8)
  np.savez(tmp_path / 'gallery.npz', img_0=photo)
  card = {
    'image': 'img_0',
    'person': 'Ann Lee',
    'group': 'forget',
    'role': 'forget',
    'question': 'Where?',
    'answer': 'She lives in Oslo.',
    'answers': {'vanilla': 'She lives in Oslo.', 'mmunlearner': 'In Rome.'},
  }
  (tmp_path / 'gallery.json').write_text(json.dumps([card]))
  page = report.write_report(tmp_path).read_text(encoding='utf-8')
  assert 'ROUGE-L 1.00' in page and 'ROUGE-L .33' in page
  assert '✗ wrong' not in page


def test_mistakes_are_cloze_answers_or_sentences_far_from_the_reference(
  tmp_path,
):
  _write(tmp_path, 'results.jsonl', _clear())
  for run, said in (('vanilla', 'She paints now.'), ('mmunlearner', 'No.')):
    row = answered.answer('1', answer='She paints.', text=said)
    for task in ('forget_qa', 'forget_vqa'):
      _write(tmp_path, f'predictions/{run}/{task}.jsonl', [row])
  page = report.write_report(tmp_path).read_text(encoding='utf-8')
  assert 'Still answered: forget VQA, captions: 0 of 1' in page
  assert 'Right before and wrong now: forget QA: 1 of 1' in page
  assert 'from a ROUGE-L of .5 on' in page
