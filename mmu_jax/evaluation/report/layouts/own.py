"""The tables of own data: whatever its rows let measure, in its own words."""

from mmu_jax.evaluation.report.layouts import benchmarks
from mmu_jax.evaluation.report.layouts import columns as c

# Whom a column is about: title and short title; split, modality, holdout; and
# how it reads. The titles are the words of the file.
_WHO = (
  (
    *('forget VQA', 'forget VQA', c.FORGET_VQA),
    'Questions about the pictures to forget, which the model was trained on.',
  ),
  (
    *('holdout VQA', 'hold out VQA', c.FORGET_VQA_HOLDOUT),
    'Questions about the same entities in pictures that no model was trained '
    'on.',
  ),
  (
    *('forget QA', 'forget QA', c.FORGET_QA),
    'Questions in text about the forgotten: this knowledge is to stay.',
  ),
  (
    *('holdout QA', 'hold out QA', c.About('forget', 'qa', True)),
    'The same in words that no model was trained on.',
  ),
  (
    *('retain VQA', 'retain VQA', c.RETAIN_VQA),
    'Questions about the pictures to keep.',
  ),
  ('retain QA', 'retain QA', c.RETAIN_QA, 'Questions in text to keep.'),
  (
    *('real VQA', 'real VQA', c.About('real', 'vqa')),
    'Questions about other pictures, which nobody was trained on.',
  ),
  (
    *('real QA', 'real QA', c.About('real', 'qa')),
    'Other questions in text, which nobody was trained on.',
  ),
)
_METRICS = (
  (
    *('exact_match', 'exact match'),
    'The share of answers that are the reference word for word.',
  ),
  (
    *('contains', 'fact'),
    'The share of answers that hold the fact of their row, whatever else '
    'they say; without that column the fact is the whole answer.',
  ),
  (
    *('rougeL', 'ROUGE-L'),
    'How much of the reference the answer shares, in order: F of the longest '
    'common subsequence, from 0 to 1. Answers of one form share words '
    'whatever they say.',
  ),
  (
    *('probability', 'answer probability'),
    'How likely the model finds the reference answer, per token.',
  ),
  (
    *('choice', 'options, the likeliest'),
    'The share of rows with options where the right one is the likeliest, '
    'whatever the model would write. Above chance something is left.',
  ),
  (
    *('accuracy', 'options, by letter'),
    'The share of rows with options that are answered with the right letter.',
  ),
)
_NEAR = ('names_another', 'nll')  # as in the retrained model
_TRACES = (
  (*('names_another', 'names somebody else', 'names other'), c.NAMES_ANOTHER),
  ('exposure', 'exposure in bits', 'bits', c.EXPOSURE),
  ('nll', 'nats of the true answer', 'nats', c.NLL),
  (
    *('js_divergence', 'JS of options to retrained', 'JS'),
    'How differently the model and the retrained one weigh the options: '
    'Jensen-Shannon divergence, from 0 to 1 bit.',
  ),
)


def _block(metric: str, title: str, meaning: str) -> c.ColumnBlock:
  """One metric, by whom is asked about."""
  wanted = lambda about: (
    c.DOWN if (about.split, about.modality) == ('forget', 'vqa') else c.UP
  )
  rows = (
    (about, metric, f'{who}/{metric}', who, short, wanted(about), reads)
    for who, short, about, reads in _WHO
  )
  return c.ColumnBlock(title, meaning, c.columns_of(rows))


def _traces() -> c.ColumnBlock:
  """Traces of the forgotten, and words said of others."""
  rows = (
    (
      *(about, metric, f'{who}/{metric}', f'{who}, {title}'),
      *(f'{short} {brief}', c.NEAR if metric in _NEAR else c.DOWN, meaning),
    )
    for metric, title, brief, meaning in _TRACES
    for who, short, about, _ in _WHO[:2]
  )
  return c.ColumnBlock('traces of the forgotten', '', c.columns_of(rows))


def _told(who: str, about: str, *metrics: str) -> tuple[c.Told, ...]:
  """Columns to speak about, of one task."""
  words = {
    'contains': ('fact', c.FACT),
    'exact_match': ('exact match', c.WORD_FOR_WORD),
    'choice': ('likeliest option', 'right among the options'),
    'rougeL': ('ROUGE-L', 'in ROUGE-L'),
    'probability': ('answer probability', 'as the probability of the answer'),
  }
  return tuple(
    c.Told(
      f'{who}/{metric}',
      f'{who}, {words[metric][0]}',
      words[metric][1],
      about,
      right=metric not in ('rougeL', 'probability'),
      chance=0.25 if metric == 'choice' else 0.0,
    )
    for metric in metrics
  )


_SAID = ('contains', 'exact_match', 'rougeL', 'probability')
OWN = c.Layout(
  (
    *(_block(*metric) for metric in _METRICS),
    c.ColumnBlock(
      benchmarks.JUDGED, benchmarks.JUDGE, _block('factuality', '', '').columns
    ),
    _traces(),
    benchmarks.whole_model(
      'exact match, fact, ROUGE-L, probability and choice'
    ),
  ),
  note='',
  derived='U: harmonic mean of n scores that are to stay high; distance '
  '(dist.): mean absolute difference to the retrained model, all scores of '
  'exact match, fact, ROUGE-L, probability and choice',
  compared=('exact_match', 'contains', 'rougeL', 'probability', 'choice'),
  forget=(
    *_told(
      'holdout VQA', 'new pictures of them', *_SAID[:2], 'choice', *_SAID[2:]
    ),
    *_told('forget VQA', c.SEEN, 'contains', 'choice'),
  ),
  text=(
    _told('forget QA', c.IN_TEXT, *_SAID),
    _told('retain VQA', 'what it knows about the pictures to keep', *_SAID),
    _told('retain QA', 'what it knows in text', *_SAID),
  ),
  kept=tuple(
    (f'{who}/{metric}', f'{who}, {title}')
    for metric, title in (('contains', 'fact'), ('rougeL', 'ROUGE-L'))
    for who in ('retain VQA', 'forget QA', 'retain QA')
  ),
  judged=('generation', 'contains', 1),
  judged_words='An answer counts as right if it holds the fact of its row: the '
  'whole reference, where the row has no fact of its own.',
  beings=('entity', 'entities'),
)
