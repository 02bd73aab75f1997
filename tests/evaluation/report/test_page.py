"""The report says what the numbers say, and shows what the files hold."""

import io
import json
import re

import answered
import numpy as np
import pytest
from results import result
from rich.console import Console

from mmu_jax.evaluation.report import page as report
from mmu_jax.evaluation.report import plots
from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report import summary
from mmu_jax.evaluation.report import table

TASKS = (
  'forget_vqa',
  'forget_vqa_holdout',
  'forget_qa',
  'retain_vqa',
  'retain_qa',
  'real_vqa',
  'real_qa',
)
# Exact match of every task in the order of TASKS, then the choice of four.
SCORES = {
  'vanilla': (1.00, 0.97, 1.00, 0.97, 1.00, 0.71, 1.00, 0.99),
  'retrained': (0.00, 0.00, 1.00, 0.96, 1.00, 0.72, 1.00, 0.17),
  'ga_diff': (0.00, 0.01, 0.25, 0.88, 0.99, 0.62, 1.00, 0.07),
  'mmunlearner': (0.05, 0.05, 1.00, 0.93, 1.00, 0.67, 1.00, 0.29),
}


def _row(run, task, value, metric='exact_match'):
  row = result(run, task, metric, value, n=144)
  return row | {'low': max(row['low'], 0), 'high': min(row['high'], 1)}


def _results(scores=None):
  found = []
  for run, (*values, choice) in (scores or SCORES).items():
    found += [_row(run, task, v) for task, v in zip(TASKS, values)]
    found.append(_row(run, 'forget_vqa_holdout', choice, 'choice'))
  return found


def _write_jsonl(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def _prediction(key, text, kind='generation'):
  return answered.answer(
    key,
    kind,
    person='maria lopez',
    question='what is the pet of this person ?',
    answer='maria lopez , cat',
    text=text,
  )


MASKS = {
  'mmunlearner': {
    'kind': 'saliency',
    'threshold': 1.0,
    'granularity': 'batch',
    'normalize': True,
    'density': {'vision': 0.4, 'language': 0.25},
    'density_by_layer': {'vision': [0.3, 0.5], 'language': [0.2, 0.3]},
    'density_by_path': {'lm_head/kernel': 0.37},
    'ties': {'vision': 4321},
    'overlap': {},
  },
  'random': {'kind': 'random', 'density': {'vision': 0.4, 'language': 0.25}},
}


@pytest.fixture(name='bare')
def _bare(tmp_path):
  """A workdir with scores and nothing else."""
  _write_jsonl(tmp_path / 'results.jsonl', _results())
  return tmp_path


@pytest.fixture(name='full')
def _full(bare):
  """A workdir with every file that a report can show."""
  right, wrong = 'maria lopez , cat', 'ada obi , dog'
  held = [_prediction('1', wrong), _prediction('2', right)]
  held += [_prediction('2', right, 'classification')]
  folder = bare / 'predictions'
  _write_jsonl(folder / 'mmunlearner' / 'forget_vqa_holdout.jsonl', held)
  for run, said in (('vanilla', right), ('mmunlearner', 'maria lopez , yak')):
    _write_jsonl(folder / run / 'forget_qa.jsonl', [_prediction('3', said)])
  probes = [{'step': 1, 'round': 1, 'turn': 'forget', 'loss': 0.1}]
  for step, value in ((10, 0.5), (20, 0.05)):
    probe = {'forget_vqa_holdout': value, 'retain_vqa': 0.9, 'forget_qa': 0.99}
    probes.append({'round': step, 'probe': probe})
  _write_jsonl(bare / 'unlearned' / 'mmunlearner' / 'metrics.jsonl', probes)
  for name, note in MASKS.items():
    _write_jsonl(bare / 'mask' / name / 'note.json', [note])
  picture = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
  np.savez(bare / 'gallery.npz', img_0=picture)
  card = {
    'image': 'img_0',
    'person': 'Maria Lopez',
    'group': 'forget',
    'role': 'forget',
    'question': 'what is the pet ?',
    'answer': right,
    'answers': {
      'vanilla': right,
      'retrained': wrong,
      'mmunlearner': '<i>obi</i>',
    },
  }
  text = card | {'image': None, 'answers': {'vanilla': right}}
  (bare / 'gallery.json').write_text(json.dumps([text, card]))
  (bare / 'config.json').write_text('{"seed": 0, "model": {"width": 128}}')
  (bare / 'manifest.json').write_text('{"versions": {"jax": "0.10.2"}}')
  return bare


def _pictures(page):
  return re.findall(r'src="data:image/png;base64,[A-Za-z0-9+/=]{100,}"', page)


def test_utility_and_distance_are_those_worked_by_hand():
  cells = scored.rows(_results())
  # mmunlearner: forget QA 1.00, retain VQA .93, retain QA 1.00, real VQA .67.
  assert cells['mmunlearner']['utility'].value == pytest.approx(3.6 / 4)
  # Against retrained: .05 + .05 + 0 + .03 + 0 + .05 + 0 over seven tasks.
  assert cells['mmunlearner']['distance'].value == pytest.approx(0.18 / 7)
  # ga_diff: 0 + .01 + .75 + .08 + .01 + .10 + 0.
  assert cells['ga_diff']['distance'].value == pytest.approx(0.95 / 7)
  assert cells['retrained']['distance'].value == 0


def test_a_missing_task_leaves_a_gap_and_not_another_mean():
  results = [
    r for r in _results() if (r['run'], r['task']) != ('ga_diff', 'retain_qa')
  ]
  cells = scored.rows(results)['ga_diff']
  assert not {'utility', 'distance', 'retain_qa'} & set(cells)
  assert '–' in table.markdown_table(results)


def test_the_last_score_of_a_task_holds():
  again = _row('mmunlearner', 'forget_qa', 0.8)
  cells = scored.rows([*_results(), again])
  assert cells['mmunlearner']['forget_qa'].value == 0.8


@pytest.mark.parametrize('width', [80, 140])
def test_the_terminal_table_shows_every_value_whole(width):
  console = Console(width=width, record=True, file=io.StringIO())
  console.print(table.results_table(_results()))
  lines = console.export_text().split('\n')
  line = next(text.split() for text in lines if text.startswith(' vanilla'))
  assert line[1:] == [
    '1.00',
    '.97',
    '.99',
    '1.00',
    '.97',
    '1.00',
    '.71',
    '1.00',
    '.92',
    '.28',
  ]
  assert max(map(len, lines)) <= width
  assert ('[.93 1.00]' in '\n'.join(lines)) == (width == 140)


def test_markdown_rows_hold_value_and_interval():
  text = table.markdown_table(_results())
  assert '| mmunlearner | .05 [.01, .09] | .05 [.01, .09] | .29' in text
  assert 'forget VQA, held-out images ↓ (n=144)' in text
  assert len({line.count('|') for line in text.split('\n')[:6]}) == 1


def test_several_seeds_give_the_mean_and_the_range():
  other = SCORES | {'mmunlearner': (0.15, 0.1, 0.9, 0.93, 1, 0.67, 1, 0.4)}
  text = table.markdown_table([_results(), _results(other)], seeds=[0, 7])
  assert '| mmunlearner | .10 (.05–.15) |' in text
  assert 'over seeds 0, 7' in text
  with pytest.raises(ValueError, match='2 lists for 3 seeds'):
    table.markdown_table([_results(), _results()], seeds=[0, 1, 2])


def test_the_first_two_sentences_say_what_was_asked_and_what_happened():
  asked, happened, *rest = summary.headline(_results(), people=6)
  assert 'asked to forget 6 people' in asked
  assert 'no longer recognises them' in happened and 'it kept' in happened
  for figure in ('5% right, 97% before, 0%', '100% right, 100% before'):
    assert figure in happened
  assert '.90, against .92 before and .92' in rest[0]
  assert 'cannot tell it from chance' in rest[1]
  assert 'mmunlearner is nearest' in rest[2]


@pytest.mark.parametrize(
  'holdout, text, words',
  [
    (0.02, 0.60, 'no longer recognises them .*, but it lost much of'),
    (0.30, 0.99, 'mostly stopped recognising them .*, and it kept'),
    (0.70, 0.95, 'still recognises them in part .*, and it lost a little'),
    (0.95, 1.00, 'still recognises them .*, but it kept'),
  ],
)
def test_failure_is_said_as_plainly_as_success(holdout, text, words):
  values = (holdout, holdout, text, 0.9, 1, 0.7, 1, 0.9)
  said = summary.headline(_results(SCORES | {'mmunlearner': values}))
  assert re.search(words, said[1])
  assert any('so something is left' in sentence for sentence in said)


def test_the_place_of_the_main_method_is_told_when_another_is_nearer():
  scores = SCORES | {'npo': SCORES['retrained']}
  said = ' '.join(summary.headline(_results(scores)))
  assert 'npo is nearest to the retrained model (distance .00)' in said
  assert 'mmunlearner is number 2 (.03)' in said


def test_the_summary_is_about_another_method_where_the_main_one_is_missing():
  without = {k: v for k, v in SCORES.items() if k != 'mmunlearner'}
  said = summary.headline(_results(without))
  assert 'unlearning with ga_diff' in said[1]
  assert 'no run named mmunlearner' in said[-1]
  only = {k: SCORES[k] for k in ('vanilla', 'retrained')}
  assert 'No unlearned model' in summary.headline(_results(only))[1]


def test_missing_scores_are_called_missing():
  results = [r for r in _results() if r['task'] != 'forget_qa']
  happened = summary.headline(results)[1]
  assert 'cannot be judged' in happened and 'not measured' in happened


def test_every_plot_draws_something_for_every_run():
  probe = {'forget_vqa_holdout': 0.2, 'retain_vqa': 0.9, 'forget_qa': 0.9}
  history = {'mmunlearner': [{'round': 10, 'probe': probe}], 'new_method': []}
  results = [*_results(), *_results({'new_method': SCORES['ga_diff']})]
  figures = (
    plots.tradeoff(results),
    plots.trajectory(history, results),
    plots.bars(results),
    plots.mask_density(MASKS),
  )
  for figure in figures:
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    coloured = np.ptp(pixels.astype(int), axis=-1) > 40
    assert coloured.mean() > 1e-4
  names = {text.get_text() for text in figures[0].axes[0].texts}
  assert names == {*SCORES, 'new_method'}


def test_labels_do_not_cover_each_other():
  crowd = {f'method_{i}': SCORES['mmunlearner'] for i in range(8)}
  figure = plots.tradeoff(_results(SCORES | crowd))
  figure.canvas.draw()
  boxes = [text.get_window_extent() for text in figure.axes[0].texts]
  for i, box in enumerate(boxes):
    # A pixel of tolerance: text extents are rounded to whole pixels.
    small = box.padded(-1)
    assert not any(small.overlaps(other.padded(-1)) for other in boxes[:i])


def test_a_run_keeps_its_colour_whoever_else_is_shown():
  alone = plots.styles(['mmunlearner'])['mmunlearner']
  assert plots.styles(['mine', 'ga', 'mmunlearner'])['mmunlearner'] == alone
  everything = plots.styles([*plots.styles(SCORES), 'npo', 'mine', 'yours'])
  assert len(set(everything.values())) == len(everything)


def test_a_full_report_holds_its_numbers_and_pictures(full):
  path = report.write_report(full)
  page = path.read_text(encoding='utf-8')
  assert path == full / 'report.html'
  assert page.startswith('<!doctype html>')
  assert 'asked to forget 1 person:' in page
  for words in (
    '[.93, 1.00]',
    'Maria Lopez',
    'image-rendering: pixelated',
    '>as wanted<',
    'ties',
    'vision 4321',
    'lm_head/kernel',
    'model.width',
    '0.10.2',
    'maria lopez , yak',
    'forgotten people: 1 of 2',
    '&lt;i&gt;obi',
  ):
    assert words in page, words
  assert '>not wanted<' not in page and 'left out' not in page
  assert len(_pictures(page)) == 5  # four plots and one portrait
  assert not re.search(r'(src|href)="(?!data:)', page)  # self-contained
  drawn = sorted(p.stem for p in (full / 'plots').glob('*.png'))
  assert drawn == ['bars', 'density', 'tradeoff', 'trajectory']


def test_a_report_of_scores_alone_says_what_is_missing(bare):
  page = report.write_report(bare).read_text(encoding='utf-8')
  assert len(_pictures(page)) == 2
  for command in ('mmu train', 'mmu saliency', 'mmu evaluate'):
    assert f'<code>{command}</code> makes it' in page
  assert page.count('left out: there is no') == 6


def test_no_scores_is_an_error_with_the_next_step(tmp_path):
  with pytest.raises(FileNotFoundError, match='results.jsonl.*`mmu evaluate`'):
    report.write_report(tmp_path)
  (tmp_path / 'results.jsonl').write_text('')
  with pytest.raises(ValueError, match='holds no score'):
    report.write_report(tmp_path)


def test_a_cut_last_line_is_left_out_with_a_warning(bare):
  path = bare / 'results.jsonl'
  path.write_text(path.read_text() + '{"run": "npo", "ta')
  with pytest.warns(UserWarning, match='line 33 is cut off'):
    assert len(report.read_results(bare)) == 32


def test_a_damaged_line_elsewhere_is_an_error_with_file_and_line(bare):
  path = bare / 'results.jsonl'
  lines = path.read_text().split('\n')
  path.write_text('\n'.join([lines[0], '{"run": ', *lines[1:]]))
  with pytest.raises(ValueError, match='results.jsonl, line 2'):
    report.read_results(bare)


@pytest.mark.parametrize('value', [None, float('nan'), 'high'])
def test_a_score_without_a_number_is_refused(bare, value):
  row = _row('ga', 'forget_qa', 0.0) | {'value': value}
  _write_jsonl(bare / 'results.jsonl', [row])
  with pytest.raises(ValueError, match='a finite value'):
    report.read_results(bare)


def test_a_gallery_without_its_picture_is_an_error(full):
  np.savez(full / 'gallery.npz', other=np.zeros((2, 2, 3), np.uint8))
  with pytest.raises(ValueError, match="'img_0' is missing"):
    report.write_report(full)
