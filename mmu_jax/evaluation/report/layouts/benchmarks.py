"""The tables of MLLMU-Bench and CLEAR, as their papers lay them out."""

from mmu_jax.evaluation.report.layouts.columns import About
from mmu_jax.evaluation.report.layouts.columns import ALL
from mmu_jax.evaluation.report.layouts.columns import Block
from mmu_jax.evaluation.report.layouts.columns import Column
from mmu_jax.evaluation.report.layouts.columns import DISTANCE
from mmu_jax.evaluation.report.layouts.columns import DOWN
from mmu_jax.evaluation.report.layouts.columns import FORGET_QA
from mmu_jax.evaluation.report.layouts.columns import FORGET_VQA
from mmu_jax.evaluation.report.layouts.columns import FORGET_VQA_HOLDOUT
from mmu_jax.evaluation.report.layouts.columns import Layout
from mmu_jax.evaluation.report.layouts.columns import RETAIN_QA
from mmu_jax.evaluation.report.layouts.columns import RETAIN_VQA
from mmu_jax.evaluation.report.layouts.columns import Told
from mmu_jax.evaluation.report.layouts.columns import UP

# Whom a column is about: (split, holdout), title, and what it means.
_WHO = (
  (
    ('forget', False),
    'forget',
    'the forgotten people, training pictures',
    'the forgotten people',
  ),
  (
    ('forget', True),
    'test',
    'the forgotten people, pictures and words that no model was trained on',
    'the forgotten people, in other words',
  ),
  (('retain', False), 'retain', 'people to keep', 'people to keep'),
  (('real', False), 'real', 'celebrities', 'celebrities'),
)


def _mllmu_columns(metric: str) -> tuple[Column, ...]:
  """One metric by whom is asked about, first in pictures, then in text."""
  columns = []
  for kind, title in (('vqa', 'VQA'), ('qa', 'QA')):
    for (split, holdout), name, seen, told in _WHO:
      to_go = (split, kind) == ('forget', 'vqa')
      columns.append(
        Column(
          f'{name} {title}/{metric}',
          f'{name} {title}',
          f'{name} {title}',
          DOWN if to_go else UP,
          f'Pictures: {seen}.' if kind == 'vqa' else f'Text: {told}.',
          About(split, kind, holdout),
          metric,
        )
      )
  return tuple(columns)


def _clear_columns(names: str, written: str) -> tuple[Column, ...]:
  """Names by one metric and sentences by another; '' leaves one out."""
  columns = [
    Column(f'{title}/{metric}', title, short, wanted, meaning, about, metric)
    for about, metric, title, short, wanted, meaning in (
      (
        FORGET_VQA,
        names,
        'forget VQA, names',
        'forget VQA names',
        DOWN,
        'The name of a forgotten person in a picture, among wrong ones.',
      ),
      (
        FORGET_VQA,
        written,
        'forget VQA, captions',
        'forget VQA capt.',
        DOWN,
        'A caption for a picture of a forgotten '
        'person. Much of a caption is what anybody sees in the picture, so '
        'it is not to go to 0: see the retrained model.',
      ),
      (
        FORGET_QA,
        written,
        'forget QA',
        'forget QA',
        UP,
        "TOFU's questions in text about the forgotten people: this "
        'knowledge is to stay.',
      ),
      (
        RETAIN_VQA,
        names,
        'retain VQA, names',
        'retain VQA names',
        UP,
        'The name of somebody to keep, among wrong ones.',
      ),
      (
        RETAIN_VQA,
        written,
        'retain VQA, captions',
        'retain VQA capt.',
        UP,
        'Captions for pictures of people to keep.',
      ),
      (
        RETAIN_QA,
        written,
        'retain QA',
        'retain QA',
        UP,
        "TOFU's questions in text about people to keep.",
      ),
      (
        About('real', 'vqa', name='real_faces'),
        names,
        'real faces',
        'real faces',
        UP,
        'The name of a celebrity in a picture, among wrong ones.',
      ),
      (
        About('real', 'vqa', name='real_world'),
        names,
        'real world',
        'real world',
        UP,
        'Questions about other pictures, with options.',
      ),
    )
    if metric
  ]
  return tuple(columns)


def _traces(forget: About, key: str, title: str, short: str) -> Block:
  """What of the forgotten is left in likelihoods, and of people to keep."""
  columns = (
    Column(
      key,
      f'{title}, likeliest option',
      f'{short} likely option',
      DOWN,
      'The share where the right option is the likeliest, whatever letter '
      'the model would write. Above chance something is left; far below '
      'it the model shuns the right answer, which is a trace as well.',
      forget,
      'choice',
    ),
    Column(
      'divergence',
      f'{title}, JS to retrained',
      f'{short} JS',
      DOWN,
      'How differently the model and the retrained one weigh the options: '
      'Jensen-Shannon divergence, from 0 to 1 bit.',
      forget,
      'js_divergence',
    ),
    Column(
      'quality',
      'forget quality',
      'forget qual. (p)',
      UP,
      'The p-value of a Kolmogorov-Smirnov test that the truth ratios on '
      'the forget set are those of the retrained model; below .05 they '
      'can be told apart. It falls with n: compare equal n only.',
      FORGET_VQA,
      'forget_quality',
    ),
    Column(
      'truth_forget',
      'forget VQA, truth ratio',
      'forget truth ratio',
      UP,
      'min(R, 1/R), R how likely wrong answers are beside the right one: '
      '1 where the model cannot tell them apart.',
      FORGET_VQA,
      'truth_ratio_forget',
    ),
    Column(
      'truth_retain',
      'retain VQA, truth ratio',
      'retain truth ratio',
      UP,
      'max(0, 1 - R): near 1 where the model knows the truth.',
      RETAIN_VQA,
      'truth_ratio_retain',
    ),
    Column(
      'probability_forget',
      'forget VQA, probability',
      'forget prob.',
      DOWN,
      'The probability of the reference answer, per token.',
      FORGET_VQA,
      'probability',
    ),
    Column(
      'probability_retain',
      'retain VQA, probability',
      'retain prob.',
      UP,
      'The same for people to keep.',
      RETAIN_VQA,
      'probability',
    ),
  )
  return Block('traces in the likelihoods', '', columns)


def _whole() -> Block:
  """Whether a model still works."""
  columns = (
    Column(
      'empty_forget',
      'forget VQA, empty',
      'forget VQA empty',
      DOWN,
      'Generated answers without a letter or a digit.',
      FORGET_VQA,
      'empty',
    ),
    Column(
      'gibberish_forget',
      'forget VQA, gibberish',
      'forget VQA gibb.',
      DOWN,
      'Generated answers that are no language: a low score beside many of '
      'them is a broken model and not a forgotten person.',
      FORGET_VQA,
      'gibberish',
    ),
    Column(
      'empty_retain',
      'retain VQA, empty',
      'retain VQA empty',
      DOWN,
      'The same for people to keep.',
      RETAIN_VQA,
      'empty',
    ),
    Column(
      'gibberish_retain',
      'retain VQA, gibberish',
      'retain VQA gibb.',
      DOWN,
      'The same for people to keep.',
      RETAIN_VQA,
      'gibberish',
    ),
    Column(
      'utility',
      'U',
      'U',
      UP,
      'Model utility: the harmonic mean of every score that was to stay '
      'high (forget QA, and all of retain and real). Its n is the number '
      'of scores.',
      ALL,
      'model_utility',
    ),
    DISTANCE._replace(
      meaning='The mean absolute difference to the retrained model over '
      'all scores of the tables of accuracy and ROUGE-L; 0 is the same '
      'behaviour.'
    ),
  )
  return Block('the model as a whole', '', columns)


_JUDGED = 'generation, factuality by a judge (1 to 10)'
_JUDGE = (
  'The mean score that another model gave the generated answers, reading '
  'the reference: 1 is wrong throughout, 10 right in every fact.'
)
_DERIVED = (
  'U: harmonic mean of n scores that are to stay high; distance (dist.): '
  'mean absolute difference to the retrained model, all scores of accuracy '
  'and ROUGE-L'
)

MLLMU_BENCH = Layout(
  (
    Block(
      'classification, accuracy',
      'The share of questions with four '
      'options that are answered with the right letter; chance is .25.',
      _mllmu_columns('accuracy'),
    ),
    Block(
      'generation, ROUGE-L',
      'How much of the reference sentence the '
      'generated one shares, in order: F of the longest common '
      'subsequence, from 0 to 1.',
      _mllmu_columns('rougeL'),
    ),
    Block(
      'cloze, accuracy',
      'The share of blanks whose answer contains the right words.',
      _mllmu_columns('cloze'),
    ),
    Block(_JUDGED, _JUDGE, _mllmu_columns('factuality')),
    _traces(FORGET_VQA_HOLDOUT, 'choice', 'test VQA', 'test'),
    _whole(),
  ),
  note='',
  derived=_DERIVED,
  compared=('accuracy', 'rougeL', 'cloze'),
  forget=Told(
    'test VQA/accuracy',
    'test VQA, accuracy',
    'questions with four options about new pictures of them',
    chance=0.25,
  ),
  text=Told(
    'forget QA/accuracy',
    'forget QA, accuracy',
    'questions with four options in text',
    chance=0.25,
  ),
  kept=(
    ('retain VQA/accuracy', 'retain VQA, accuracy'),
    ('forget QA/accuracy', 'forget QA, accuracy'),
  ),
  judged=('cloze', 'cloze', 1),
  judged_words='Cloze questions; an answer is right if it contains the words '
  'of the reference.',
)

CLEAR = Layout(
  (
    Block(
      'names and options: accuracy; captions and QA: ROUGE-L',
      'Accuracy is the share answered with the letter of the right '
      'option; chance is one over the number of options. ROUGE-L is how '
      'much of the reference the generated sentence shares, in order.',
      _clear_columns('accuracy', 'rougeL'),
    ),
    Block(_JUDGED, _JUDGE, _clear_columns('', 'factuality')),
    _traces(FORGET_VQA, 'name_choice', 'forget VQA, names', 'forget'),
    _whole(),
  ),
  note='',
  derived=_DERIVED,
  compared=('accuracy', 'rougeL'),
  forget=Told(
    'forget VQA, names/accuracy',
    'forget VQA, accuracy of names',
    'choosing their name for a picture',
  ),
  text=Told(
    'forget QA/rougeL',
    'forget QA, ROUGE-L',
    'ROUGE-L of answers in text',
    right=False,
  ),
  kept=(
    ('retain VQA, names/accuracy', 'retain VQA, accuracy of names'),
    ('forget QA/rougeL', 'forget QA, ROUGE-L'),
  ),
  judged=('generation', 'rougeL', 0.5),
  judged_words='Captions and questions in text; here an answer counts as '
  'right from a ROUGE-L of .5 on.',
)
