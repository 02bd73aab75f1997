"""The tables of MLLMU-Bench and CLEAR, as their papers lay them out."""

from mmu_jax.evaluation.report.layouts import columns as c

_KEEP = 'The same for people to keep.'
# Whom a column is about: split, holdout, title, and meaning for pictures and
# for text.
_WHO = (
  (
    *('forget', False, 'forget'),
    'the forgotten people, training pictures',
    'the forgotten people',
  ),
  (
    *('forget', True, 'test'),
    'the forgotten people, pictures and words that no model was trained on',
    'the forgotten people, in other words',
  ),
  ('retain', False, 'retain', 'people to keep', 'people to keep'),
  ('real', False, 'real', 'celebrities', 'celebrities'),
)


def _mllmu_columns(metric: str) -> tuple[c.Column, ...]:
  """One metric by whom is asked about, first in pictures, then in text."""
  rows = []
  for kind, title in (('vqa', 'VQA'), ('qa', 'QA')):
    for split, holdout, who, seen, told in _WHO:
      about, name = c.About(split, kind, holdout), f'{who} {title}'
      wanted = c.DOWN if (split, kind) == ('forget', 'vqa') else c.UP
      meaning = f'Pictures: {seen}.' if kind == 'vqa' else f'Text: {told}.'
      key = f'{name}/{metric}'
      rows.append((about, metric, key, name, name, wanted, meaning))
  return c.columns_of(rows)


def _clear_columns(names: str, written: str) -> tuple[c.Column, ...]:
  """Names by one metric and sentences by another; '' leaves one out."""
  rows = (
    (
      *(c.FORGET_VQA, names, 'forget VQA, names', 'forget VQA names', c.DOWN),
      'The name of a forgotten person in a picture, among wrong ones.',
    ),
    (
      *(c.FORGET_VQA, written, 'forget VQA, captions', 'forget VQA capt.'),
      c.DOWN,
      'A caption for a picture of a forgotten person. Much of a caption is '
      'what anybody sees in the picture, so it is not to go to 0: see the '
      'retrained model.',
    ),
    (
      *(c.FORGET_QA, written, 'forget QA', 'forget QA', c.UP),
      "TOFU's questions in text about the forgotten people: this knowledge "
      'is to stay.',
    ),
    (
      *(c.RETAIN_VQA, names, 'retain VQA, names', 'retain VQA names', c.UP),
      'The name of somebody to keep, among wrong ones.',
    ),
    (
      *(c.RETAIN_VQA, written, 'retain VQA, captions', 'retain VQA capt.'),
      c.UP,
      'Captions for pictures of people to keep.',
    ),
    (
      *(c.RETAIN_QA, written, 'retain QA', 'retain QA', c.UP),
      "TOFU's questions in text about people to keep.",
    ),
    (
      c.About('real', 'vqa', name='real_faces'),
      *(names, 'real faces', 'real faces', c.UP),
      'The name of a celebrity in a picture, among wrong ones.',
    ),
    (
      c.About('real', 'vqa', name='real_world'),
      *(names, 'real world', 'real world', c.UP),
      'Questions about other pictures, with options.',
    ),
  )
  return c.columns_of(
    (about, metric, f'{title}/{metric}', title, *rest)
    for about, metric, title, *rest in rows
    if metric
  )


def _traces(forget: c.About, key: str, title: str, short: str) -> c.ColumnBlock:
  """Likelihoods: traces of the forgotten people, and of people to keep."""
  rows = (
    (
      *(forget, 'choice', key, f'{title}, likeliest option'),
      *(f'{short} likely option', c.DOWN),
      'The share where the right option is the likeliest, whatever letter '
      'the model would write. Above chance something is left; far below it '
      'and below the retrained model it shuns the right answer, a trace, too.',
    ),
    (
      *(forget, 'js_divergence', 'divergence', f'{title}, JS to retrained'),
      *(f'{short} JS', c.DOWN),
      'How differently the model and the retrained one weigh the options: '
      'Jensen-Shannon divergence, from 0 to 1 bit.',
    ),
    (
      *(c.FORGET_VQA, 'forget_quality', 'quality', 'forget quality'),
      *('forget qual. (p)', c.UP),
      'The p-value of a Kolmogorov-Smirnov test that the truth ratios on '
      'the forget set are as in the retrained model; below .05 they '
      'can be told apart. It falls with n: compare equal n only.',
    ),
    (
      *(c.FORGET_VQA, 'truth_ratio_forget', 'truth_forget'),
      *('forget VQA, truth ratio', 'forget truth ratio', c.UP),
      'min(R, 1/R), R how likely wrong answers are beside the right one: '
      '1 where the model cannot tell them apart.',
    ),
    (
      *(c.RETAIN_VQA, 'truth_ratio_retain', 'truth_retain'),
      *('retain VQA, truth ratio', 'retain truth ratio', c.UP),
      'max(0, 1 - R): near 1 where the model knows the truth.',
    ),
    (
      *(c.FORGET_VQA, 'probability', 'probability_forget'),
      *('forget VQA, probability', 'forget prob.', c.DOWN),
      'The probability of the reference answer, per token.',
    ),
    (
      *(c.FORGET_VQA, 'nll', 'nll_forget'),
      *('forget VQA, nats', 'forget nats', c.NEAR, c.NLL),
    ),
    (
      *(c.RETAIN_VQA, 'probability', 'probability_retain'),
      *('retain VQA, probability', 'retain prob.', c.UP, _KEEP),
    ),
  )
  return c.ColumnBlock('traces in the likelihoods', '', c.columns_of(rows))


def whole_model(tables: str = 'accuracy and ROUGE-L') -> c.ColumnBlock:
  """Returns the columns that say whether a model still works.

  Args:
    tables: titles of the tables whose scores make up the distance.
  """
  said = {
    'empty': 'Generated answers without a letter or a digit.',
    'gibberish': 'Generated answers that are no language: a low score beside '
    'many of them is a broken model and not a forgotten person.',
  }
  rows = []
  for about, forget in ((c.FORGET_VQA, True), (c.RETAIN_VQA, False)):
    for metric, short in (('empty', 'empty'), ('gibberish', 'gibb.')):
      meaning, who = said[metric] if forget else _KEEP, f'{about.split} VQA'
      key, title = f'{metric}_{about.split}', f'{who}, {metric}'
      rows.append(
        (about, metric, key, title, f'{who} {short}', c.DOWN, meaning)
      )
  rows.append(
    (
      *(c.ALL, 'model_utility', 'utility', 'U', 'U', c.UP),
      'Model utility: the harmonic mean of every score that was to stay '
      'high (forget QA, and all of retain and real). Its n is the number '
      'of scores.',
    )
  )
  distance = c.DISTANCE._replace(
    meaning='The mean absolute difference to the retrained model over all '
    f'scores of the tables of {tables}; 0 is the same behaviour.'
  )
  return c.ColumnBlock(
    'the model as a whole', '', (*c.columns_of(rows), distance)
  )


JUDGED = 'generation, factuality by a judge (1 to 10)'
JUDGE = (
  'The mean score that another model gave the generated answers, reading '
  'the reference: 1 is wrong throughout, 10 right in every fact.'
)
_DERIVED = (
  'U: harmonic mean of n scores that are to stay high; distance (dist.): '
  'mean absolute difference to the retrained model, all scores of accuracy '
  'and ROUGE-L'
)

MLLMU_BENCH = c.Layout(
  (
    c.ColumnBlock(
      'classification, accuracy',
      'The share of questions with four '
      'options that are answered with the right letter; chance is .25.',
      _mllmu_columns('accuracy'),
    ),
    c.ColumnBlock(
      'generation, ROUGE-L',
      'How much of the reference sentence the '
      'generated one shares, in order: F of the longest common '
      'subsequence, from 0 to 1.',
      _mllmu_columns('rougeL'),
    ),
    c.ColumnBlock(
      'cloze, accuracy',
      'The share of blanks whose answer contains the right words.',
      _mllmu_columns('cloze'),
    ),
    c.ColumnBlock(JUDGED, JUDGE, _mllmu_columns('factuality')),
    _traces(c.FORGET_VQA_HOLDOUT, 'choice', 'test VQA', 'test'),
    whole_model(),
  ),
  note='',
  derived=_DERIVED,
  compared=('accuracy', 'rougeL', 'cloze'),
  forget=(
    c.Told(
      *('test VQA/accuracy', 'test VQA, accuracy', c.OF_FOUR), chance=0.25
    ),
    c.Told('test VQA/cloze', 'test VQA, cloze', 'right in cloze questions'),
    c.Told(
      *('choice', 'test VQA, likeliest option', 'likeliest of four answers'),
      chance=0.25,
    ),
    c.Told('test VQA/rougeL', 'test VQA, ROUGE-L', 'in ROUGE-L', right=False),
    c.Told(
      *('forget VQA/accuracy', 'forget VQA, accuracy', c.OF_FOUR, c.SEEN),
      chance=0.25,
    ),
  ),
  text=(
    (c.Told('forget QA/accuracy', 'forget QA, accuracy', 'right', c.IN_TEXT),),
  ),
  kept=(
    ('retain VQA/accuracy', 'retain VQA, accuracy'),
    ('forget QA/accuracy', 'forget QA, accuracy'),
  ),
  judged=('cloze', 'cloze', 1),
  judged_words='Cloze questions; an answer is right if it contains the words '
  'of the reference.',
)

CLEAR = c.Layout(
  (
    c.ColumnBlock(
      'names and options: accuracy; captions and QA: ROUGE-L',
      'Accuracy is the share answered with the letter of the right '
      'option; chance is one over the number of options. ROUGE-L is how '
      'much of the reference the generated sentence shares, in order.',
      _clear_columns('accuracy', 'rougeL'),
    ),
    c.ColumnBlock(
      'captions and QA, ROUGE-L recall',
      "The share of the reference's words that the generated sentence has, in "
      'order: the number that TOFU and CLEAR report. Unlike ROUGE-L, the F '
      'measure, it does not fall where an answer is long.',
      _clear_columns('', 'rougeL_recall'),
    ),
    c.ColumnBlock(JUDGED, JUDGE, _clear_columns('', 'factuality')),
    _traces(c.FORGET_VQA, 'name_choice', 'forget VQA, names', 'forget'),
    whole_model(),
  ),
  note='',
  derived=_DERIVED,
  compared=('accuracy', 'rougeL'),
  forget=(
    c.Told(
      'forget VQA, names/accuracy',
      'forget VQA, accuracy of names',
      *('right in choosing their name', 'pictures of them'),
    ),
    c.Told(
      'name_choice',
      'forget VQA, likeliest name',
      *('with their name as the likeliest', 'pictures of them'),
    ),
  ),
  text=(
    (
      c.Told(
        *('forget QA/rougeL', 'forget QA, ROUGE-L', 'in ROUGE-L', c.IN_TEXT),
        right=False,
      ),
    ),
  ),
  kept=(
    ('retain VQA, names/accuracy', 'retain VQA, accuracy of names'),
    ('forget QA/rougeL', 'forget QA, ROUGE-L'),
  ),
  judged=('generation', 'rougeL', 0.5),
  judged_words='Captions and questions in text; here an answer counts as '
  'right from a ROUGE-L of .5 on.',
)
