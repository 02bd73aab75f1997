"""The tables of MLLMU-Bench and CLEAR, as their papers lay them out."""

from collections.abc import Sequence

from mmu_jax.evaluation.report.columns import Block
from mmu_jax.evaluation.report.columns import Column
from mmu_jax.evaluation.report.columns import DISTANCE
from mmu_jax.evaluation.report.columns import DOWN
from mmu_jax.evaluation.report.columns import Layout
from mmu_jax.evaluation.report.columns import PEOPLE
from mmu_jax.evaluation.report.columns import Told
from mmu_jax.evaluation.report.columns import UP

# Who is asked about: task with {} for vqa or qa, title, and what it means.
_WHO = (
  (
    'forget_{}',
    'forget',
    'the forgotten people, training pictures',
    'the forgotten people',
  ),
  (
    'forget_{}_holdout',
    'test',
    'the forgotten people, pictures and words that no model was trained on',
    'the forgotten people, in other words',
  ),
  ('retain_{}', 'retain', 'people to keep', 'people to keep'),
  ('real_{}', 'real', 'celebrities', 'celebrities'),
)


def _mllmu_columns(metric: str) -> tuple[Column, ...]:
  """One metric by whom is asked about, first in pictures, then in text."""
  columns = []
  for kind, title in (('vqa', 'VQA'), ('qa', 'QA')):
    for task, name, seen, told in _WHO:
      task = task.format(kind)
      to_go = kind == 'vqa' and task.startswith('forget')
      columns.append(
        Column(
          f'{task}/{metric}',
          f'{name} {title}',
          f'{name} {title}',
          DOWN if to_go else UP,
          f'Pictures: {seen}.' if kind == 'vqa' else f'Text: {told}.',
          task,
          metric,
        )
      )
  return tuple(columns)


def _clear_columns(names: str, written: str) -> tuple[Column, ...]:
  """Names by one metric and sentences by another; '' leaves one out."""
  columns = [
    Column(f'{task}/{metric}', title, short, wanted, meaning, task, metric)
    for task, metric, title, short, wanted, meaning in (
      (
        'forget_vqa',
        names,
        'forget VQA, names',
        'forget VQA names',
        DOWN,
        'The name of a forgotten person in a picture, among wrong ones.',
      ),
      (
        'forget_vqa',
        written,
        'forget VQA, captions',
        'forget VQA capt.',
        DOWN,
        'A caption for a picture of a forgotten '
        'person. Much of a caption is what anybody sees in the picture, so '
        'it is not to go to 0: see the retrained model.',
      ),
      (
        'forget_qa',
        written,
        'forget QA',
        'forget QA',
        UP,
        "TOFU's questions in text about the forgotten people: this "
        'knowledge is to stay.',
      ),
      (
        'retain_vqa',
        names,
        'retain VQA, names',
        'retain VQA names',
        UP,
        'The name of somebody to keep, among wrong ones.',
      ),
      (
        'retain_vqa',
        written,
        'retain VQA, captions',
        'retain VQA capt.',
        UP,
        'Captions for pictures of people to keep.',
      ),
      (
        'retain_qa',
        written,
        'retain QA',
        'retain QA',
        UP,
        "TOFU's questions in text about people to keep.",
      ),
      (
        'real_faces',
        names,
        'real faces',
        'real faces',
        UP,
        'The name of a celebrity in a picture, among wrong ones.',
      ),
      (
        'real_world',
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


def _traces(forget: str, key: str, title: str, short: str) -> Block:
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
      'forget_vqa',
      'forget_quality',
    ),
    Column(
      'truth_forget',
      'forget VQA, truth ratio',
      'forget truth ratio',
      UP,
      'min(R, 1/R), R how likely wrong answers are beside the right one: '
      '1 where the model cannot tell them apart.',
      'forget_vqa',
      'truth_ratio_forget',
    ),
    Column(
      'truth_retain',
      'retain VQA, truth ratio',
      'retain truth ratio',
      UP,
      'max(0, 1 - R): near 1 where the model knows the truth.',
      'retain_vqa',
      'truth_ratio_retain',
    ),
    Column(
      'probability_forget',
      'forget VQA, probability',
      'forget prob.',
      DOWN,
      'The probability of the reference answer, per token.',
      'forget_vqa',
      'probability',
    ),
    Column(
      'probability_retain',
      'retain VQA, probability',
      'retain prob.',
      UP,
      'The same for people to keep.',
      'retain_vqa',
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
      'forget_vqa',
      'empty',
    ),
    Column(
      'gibberish_forget',
      'forget VQA, gibberish',
      'forget VQA gibb.',
      DOWN,
      'Generated answers that are no language: a low score beside many of '
      'them is a broken model and not a forgotten person.',
      'forget_vqa',
      'gibberish',
    ),
    Column(
      'empty_retain',
      'retain VQA, empty',
      'retain VQA empty',
      DOWN,
      'The same for people to keep.',
      'retain_vqa',
      'empty',
    ),
    Column(
      'gibberish_retain',
      'retain VQA, gibberish',
      'retain VQA gibb.',
      DOWN,
      'The same for people to keep.',
      'retain_vqa',
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
      'all',
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
    _traces('forget_vqa_holdout', 'choice', 'test VQA', 'test'),
    _whole(),
  ),
  note='',
  derived=_DERIVED,
  compared=('accuracy', 'rougeL', 'cloze'),
  forget=Told(
    'forget_vqa_holdout/accuracy',
    'test VQA, accuracy',
    'questions with four options about new pictures of them',
    chance=0.25,
  ),
  text=Told(
    'forget_qa/accuracy',
    'forget QA, accuracy',
    'questions with four options in text',
    chance=0.25,
  ),
  kept=(
    ('retain_vqa/accuracy', 'retain VQA, accuracy'),
    ('forget_qa/accuracy', 'forget QA, accuracy'),
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
    _traces('forget_vqa', 'name_choice', 'forget VQA, names', 'forget'),
    _whole(),
  ),
  note='',
  derived=_DERIVED,
  compared=('accuracy', 'rougeL'),
  forget=Told(
    'forget_vqa/accuracy',
    'forget VQA, accuracy of names',
    'choosing their name for a picture',
  ),
  text=Told(
    'forget_qa/rougeL',
    'forget QA, ROUGE-L',
    'ROUGE-L of answers in text',
    right=False,
  ),
  kept=(
    ('retain_vqa/accuracy', 'retain VQA, accuracy of names'),
    ('forget_qa/rougeL', 'forget QA, ROUGE-L'),
  ),
  judged=('generation', 'rougeL', 0.5),
  judged_words='Captions and questions in text; here an answer counts as '
  'right from a ROUGE-L of .5 on.',
)


def layout_of(results: Sequence[dict]) -> Layout:
  """The layout that some results are shown in.

  CLEAR alone has ``real_faces`` and ``real_world``. Of the others, what was
  asked by another protocol than ``plain`` is shown as MLLMU-Bench is: answers
  are checked for being empty, and options are answered by their letter.

  Args:
    results: lines of ``results.jsonl``.

  Example:
    >>> layout_of([{'task': 'forget_qa', 'metric': 'empty'}]) is MLLMU_BENCH
    True
  """
  if {'real_faces', 'real_world'} & {row['task'] for row in results}:
    return CLEAR
  if {'accuracy', 'empty'} & {row['metric'] for row in results}:
    return MLLMU_BENCH
  return PEOPLE
