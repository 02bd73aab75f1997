"""Tables hold every value whole, in terminals and in Markdown."""

import io

import pytest
from rich.console import Console
from shown import benchmark_row
from shown import BENCHMARKS
from shown import clear
from shown import mllmu
from shown import people
from shown import RUNS
from shown import SCORES
from shown import undefined

from mmu_jax.evaluation.report import table

RUNS_OF_TEN = (
  *('vanilla', 'retrained', 'ga', 'npo', 'ga_diff', 'kl_min', 'npo_retain'),
  *('mmunlearner', 'mmunlearner_topk', 'mmunlearner_random'),
)


@pytest.mark.parametrize('width', [60, 80, 140])
def test_the_terminal_table_shows_every_value_and_interval_whole(width):
  results = people(dict(zip(RUNS_OF_TEN, [*SCORES.values()] * 3)))
  lines = _printed(results, width).split('\n')
  assert max(map(len, lines)) <= width
  rows = [text.split() for text in lines]
  places = [i for i, words in enumerate(rows) if words[:1] == ['vanilla']]
  assert len(places) == {60: 3, 80: 2, 140: 1}[width]
  cells = ' '.join(word for i in places for word in rows[i][1:])
  assert cells == '1.00 .97 .99 1.00 .97 1.00 .71 1.00 .92 .28'
  below = [word for i in places for word in rows[i + 1]]
  bounds = ' '.join(word for word in below if {*word} & {*'[]'})
  assert bounds == (
    '[.96 1.00] [.93 1.00] [.95 1.00] [.96 1.00] [.93 1.00] [.96 1.00] '
    '[.67 .75] [.96 1.00]'
  )
  # Every table has every run, and no word is broken over lines.
  for run in RUNS_OF_TEN:
    name = run if len(run) <= 12 else run.partition('_')[2]
    assert sum(name in ' '.join(words[:2]) for words in rows) >= len(places)
  words = {word for row in rows for word in row}
  assert {'forget', 'retain', 'train', 'dist.', 'n=144'} <= words


def test_markdown_rows_hold_value_and_interval():
  text = table.markdown_table(people())
  assert '| mmunlearner | .05 [.01, .09] | .05 [.01, .09] | .29' in text
  assert 'forget VQA, held-out images ↓ (n=144)' in text
  assert len({line.count('|') for line in text.split('\n')[:6]}) == 1


def test_several_seeds_give_the_mean_and_the_range():
  other = SCORES | {'mmunlearner': (0.15, 0.1, 0.9, 0.93, 1, 0.67, 1, 0.4)}
  text = table.markdown_table([people(), people(other)], seeds=[0, 7])
  assert '| mmunlearner | .10 (.05–.15) |' in text
  assert 'over seeds 0, 7' in text
  with pytest.raises(ValueError, match='2 lists for 3 seeds'):
    table.markdown_table([people(), people()], seeds=[0, 1, 2])


def test_a_model_that_answers_nothing_is_marked_in_the_terminal():
  gone = benchmark_row('mmunlearner', 'retain_vqa', 'gibberish', 0.9)
  text = _printed([*mllmu(), gone], 140)
  assert 'mmunlearner †' in text and 'vanilla †' not in text
  words = ' '.join(text.split())
  assert '† mmunlearner: 90 % of the answers to retain_vqa are empty' in words


def test_markdown_marks_a_model_that_answers_nothing_and_says_on_which_seed():
  gone = benchmark_row('mmunlearner', 'retain_vqa', 'gibberish', 0.9)
  broken, whole = [*mllmu(), gone], mllmu()
  said = '† {}mmunlearner: 90 % of the answers to retain_vqa are empty'
  alone = table.markdown_table(broken)
  assert '| mmunlearner † |' in alone and '| vanilla |' in alone
  assert said.format('') in alone
  several = table.markdown_table([whole, broken], seeds=[3, 7])
  assert '| mmunlearner † |' in several
  assert said.format('seed 7, ') in several and 'seed 3, ' not in several
  assert '†' not in table.markdown_table([whole, whole], seeds=[3, 7])


def test_an_undefined_score_is_called_so():
  gone = undefined(people(), 'exact_match')
  line = _row(table.markdown_table(gone), 'mmunlearner')
  assert line.count('undefined') == 9 and 'nan' not in line  # U, distance too
  line = _row(table.markdown_table([people(), gone], seeds=[0, 1]), 'vanilla')
  assert 'undefined' not in line
  both = table.markdown_table([people(), gone], seeds=[0, 1])
  assert _row(both, 'mmunlearner').count('undefined') == 9


def _row(text, run):
  return next(x for x in text.split('\n') if x.startswith(f'| {run} '))


def _printed(results, width):
  console = Console(width=width, record=True, file=io.StringIO())
  console.print(table.results_table(results))
  return console.export_text()


@pytest.mark.parametrize('name', BENCHMARKS)
@pytest.mark.parametrize('width', [80, 140])
def test_terminals_show_whole_names_and_values(name, width):
  text = _printed(BENCHMARKS[name](), width)
  assert max(map(len, text.split('\n'))) <= width
  rows = [line.split() for line in text.split('\n')]
  cells = [
    word for row in rows if row[:1] == ['mmunlearner'] for word in row[1:]
  ]
  values = {
    'mllmu': '.33 .31 .45 .51 .32 .38 .54',
    'clear': '.36 .40 .40 .68 .40 .40 .68 .68',
  }
  assert ' '.join(cells).startswith(values[name])
  assert 'protocol fixed, zero-shot' in text
  assert 'n=125' in text or 'n=188' in text
  bounds = '[.29 .37]' if name == 'mllmu' else '[.32 .40]'
  assert bounds in text


def test_a_small_p_value_keeps_its_power():
  assert '3e-12' in _printed(clear(), 80)
  assert '3e-12 [3e-12, 3e-12]' in table.markdown_table(clear())


def test_nats_have_one_decimal():
  assert table.number(15.72, 'nll') == '15.7'
  assert table.number(0.09, 'nll') == '0.1'


def test_factuality_has_its_own_table_and_one_decimal():
  for results in (mllmu(), clear()):
    judged = [
      benchmark_row(
        r, 'forget_qa', 'factuality', 7.26, layout=results[0]['layout']
      )
      for r in RUNS
    ]
    text = table.markdown_table(results + judged)
    assert '**generation, factuality by a judge (1 to 10)**' in text
    assert '| vanilla | 7.3 [7.2, 7.3] |' in text


def test_markdown_has_a_table_for_each_block_and_says_the_protocol():
  text = table.markdown_table(mllmu())
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
