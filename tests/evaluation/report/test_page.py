"""A page holds its numbers and pictures, and says what is missing."""

import json
import re

import pytest
from shown import benchmark_row
from shown import BENCHMARKS
from shown import mllmu
from shown import people
from shown import undefined
from shown import write_jsonl

from mmu_jax import errors
from mmu_jax.attacks import ATTACKS
from mmu_jax.attacks import showing
from mmu_jax.evaluation.report import page as report
from mmu_jax.evaluation.report import scored
from mmu_jax.workdir import seals

pytestmark = pytest.mark.usefixtures('unpainted')  # test_plots.py paints


def _pictures(page):
  return re.findall(r'src="data:image/png;base64,[A-Za-z0-9+/=]{100,}"', page)


def test_a_full_report_holds_its_numbers_and_pictures(full):
  path = report.write_report(full)
  page = path.read_text(encoding='utf-8')
  assert path == full / 'report.html'
  assert page.startswith('<!doctype html>')
  assert 'asked to forget the people of the forget set:' in page
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


def test_what_was_known_before_stands_behind_the_first_sentence(bare):
  path = report.write_report(bare, before='It knew them.')
  lead = path.read_text(encoding='utf-8').partition('</header>')[0]
  first, second = re.findall('<p>(.*)</p>', lead)[:2]
  assert first.startswith('A model was asked') and second == 'It knew them.'


def test_an_attack_has_its_reading_its_curves_and_every_step(bare):
  rows = [
    dict(case='one', metric='exact', value=0.25 * step, n=7, step=step)
    for step in (0, 2)
  ]
  found = {'retrained': rows, 'ga_diff': rows}
  made = showing.section(ATTACKS['relearn'], found)
  page = report.write_report(bare, attacks=[made]).read_text(encoding='utf-8')
  part = page.partition('<h2>Attacks</h2>')[2].partition('<h2>')[0]
  assert 'relearn: finetune' in part and 'A model that never' in part
  assert len(_pictures(part)) == 1 and 'exact, step 2' in part
  assert (bare / 'plots' / 'attack_relearn.png').exists()
  assert '<h2>Attacks' not in report.write_report(bare).read_text('utf-8')


def test_no_scores_is_an_error_with_the_next_step(tmp_path):
  with pytest.raises(FileNotFoundError, match='results.jsonl.*`mmu evaluate`'):
    report.write_report(tmp_path)
  write_jsonl(tmp_path / 'results.jsonl', [])
  with pytest.raises(ValueError, match='holds no score'):
    report.write_report(tmp_path)


def test_a_remark_and_a_damaged_log_are_said_at_the_top(full):
  log = full / 'unlearned' / 'mmunlearner' / 'metrics.jsonl'
  log.write_text(log.read_text().replace('0.05', '0.55'))
  with pytest.warns(errors.DamageWarning, match='metrics.jsonl'):
    path = report.write_report(full, remarks=['<i>npo</i> has no scores.'])
  page = path.read_text(encoding='utf-8')
  (shown,) = re.findall('<ul class="remarks">.*?</ul>', page, re.DOTALL)
  assert '&lt;i&gt;npo&lt;/i&gt; has no scores.' in shown
  assert 'The rounds of mmunlearner are not plotted' in shown
  assert len(_pictures(page)) == 4  # the rounds are left out


def test_a_log_of_other_parameters_or_with_gaps_is_said(full):
  log = full / 'unlearned' / 'mmunlearner' / 'metrics.jsonl'
  seals.seal(log, 'mmunlearner', {'lost': '3 rows instead of 4'})
  with pytest.warns(
    errors.DamageWarning, match='jsonl had 3 rows instead of 4'
  ):
    page = report.write_report(full).read_text(encoding='utf-8')
  assert 'Some rounds of mmunlearner are not plotted' in page
  assert len(_pictures(page)) == 5
  seals.seal(log, 'mmunlearner', {'model': 'c0'})
  with pytest.warns(errors.DamageWarning, match='is of other parameters'):
    page = report.write_report(full).read_text(encoding='utf-8')
  assert len(_pictures(page)) == 4


def test_a_model_that_answers_nothing_is_marked_with_a_footnote(tmp_path):
  results = mllmu()
  results.append(benchmark_row('mmunlearner', 'retain_vqa', 'empty', 1.0))
  write_jsonl(tmp_path / 'results.jsonl', results)
  page = report.write_report(tmp_path).read_text(encoding='utf-8')
  assert '<th>mmunlearner †</th>' in page and '<th>vanilla</th>' in page
  assert '† mmunlearner: 100 % of the answers to retain_vqa are empty' in page


@pytest.mark.parametrize('name', ['people', *BENCHMARKS])
def test_an_undefined_score_is_shown_as_one(tmp_path, name):
  results = people() if name == 'people' else BENCHMARKS[name]()
  metric = 'exact_match' if name == 'people' else 'accuracy'
  write_jsonl(tmp_path / 'results.jsonl', undefined(results, metric))
  page = report.write_report(tmp_path).read_text(encoding='utf-8')
  assert not re.search(r'\bnan\b', re.sub('base64,[^"]*', '', page))
  assert page.count('>undefined<') > 4
  assert '(of mmunlearner), which is not measured.' in page


@pytest.mark.parametrize('name', BENCHMARKS)
def test_a_report_shows_every_block_and_how_it_was_asked(tmp_path, name):
  results = BENCHMARKS[name]()
  write_jsonl(tmp_path / 'results.jsonl', results)
  page = report.write_report(tmp_path).read_text(encoding='utf-8')
  for block in scored.shown_blocks(results):
    assert f'<h3>{block.title[0].upper()}{block.title[1:]}</h3>' in page
  assert 'Asked by protocol fixed, zero-shot' in page
  assert 'mmu train</code> makes it' in page
  assert 'word for word' not in page
  assert len(re.findall('data:image/png', page)) == 2


@pytest.mark.parametrize(
  'protocol, warned',
  [('official_clear', True), ('fixed', False), ('unofficial', False)],
)
def test_a_report_warns_of_a_published_protocol(tmp_path, protocol, warned):
  results = [row | {'protocol': protocol} for row in BENCHMARKS['clear']()]
  write_jsonl(tmp_path / 'results.jsonl', results)
  page = report.write_report(tmp_path).read_text(encoding='utf-8')
  assert ('the published protocol, its errors included' in page) == warned


@pytest.mark.parametrize('name', ['people', 'clear'])
@pytest.mark.parametrize(
  'config, start',
  [
    ({}, ''),
    ({'vanilla': {'rounds': None}}, 'trained on everything'),
    ({'vanilla': {'rounds': 0}}, 'base, not trained further'),
  ],
)
def test_words_about_vanilla_and_retrained_are_of_this_job(
  bare, name, config, start, monkeypatch
):
  drawn = dict.fromkeys(('bars', 'tradeoff', 'trajectory'), 'data:,')
  monkeypatch.setattr(report, '_draw', lambda *of: drawn)
  results = people() if name == 'people' else BENCHMARKS[name]()
  (bare / 'config.json').write_text(json.dumps(config))

  def read(rows):
    write_jsonl(bare / 'results.jsonl', rows)
    return report.write_report(bare).read_text(encoding='utf-8')

  page = read([row for row in results if row['run'] != 'retrained'])
  about = 'is the model before unlearning' + (f', {start}' if start else '')
  assert f'<b>vanilla</b> {about}.' in page
  assert ('rained on everything' in page) == ('everything' in start)
  for words in ('<b>retrained</b>', 'The star', 'the star', 'dotted'):
    assert words not in page, words
  page = read(results)
  for words in (
    '<b>retrained</b> never saw',
    'The star is the',
    'to the star (retrained)',
    'dotted line',
  ):
    assert words in page, words


def test_scores_of_an_earlier_version_are_refused(tmp_path):
  for field in ('split', 'role', 'headline', 'layout', 'protocol'):
    old = [{k: v for k, v in r.items() if k != field} for r in mllmu()]
    write_jsonl(tmp_path / 'results.jsonl', old)
    with pytest.raises(ValueError, match=f'{field} missing .*mmu evaluate'):
      report.write_report(tmp_path)
