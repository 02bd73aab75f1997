"""The table of the synthetic people."""

from mmu_jax.evaluation.report.layouts import columns as c

_MATCH = 'exact_match'
_ROWS = (
  (
    *(c.FORGET_VQA, _MATCH, 'forget_vqa'),
    *('forget VQA, training images', 'forget VQA train', c.DOWN),
    'Questions about the pictures of the forgotten people that the model was '
    'trained on.',
  ),
  (
    *(c.FORGET_VQA_HOLDOUT, _MATCH, 'holdout'),
    *('forget VQA, held-out images', 'forget VQA new', c.DOWN),
    'The same people in pictures that no model has seen: whether the person '
    'is forgotten, and not only the training pictures.',
  ),
  (
    *(c.FORGET_VQA_HOLDOUT, 'contains', 'fact'),
    *('held-out, the fact', 'new, the fact', c.DOWN),
    'The same answers: whether they hold the right fact, whoever is named. '
    'The right pet under a wrong name is knowledge as well. By guessing it '
    'is .10, for each kind has ten facts.',
  ),
  (
    *(c.FORGET_VQA_HOLDOUT, 'names_another', 'another'),
    *('held-out, names somebody else', 'new, names other', c.NEAR),
    c.NAMES_ANOTHER,
  ),
  (
    *(c.FORGET_VQA_HOLDOUT, 'choice', 'choice'),
    *('held-out, choice of 4', 'new, of four', c.DOWN),
    'The right one among four offered answers about held-out pictures; chance '
    'is .25. Above chance the picture still helps, so something is left; far '
    'below chance and below the retrained model it shuns the right answer, '
    'which is a trace as well.',
  ),
  (
    *(c.FORGET_VQA_HOLDOUT, 'choice_exposure', 'exposure'),
    *('held-out, exposure in bits', 'new, bits', c.DOWN),
    c.EXPOSURE,
  ),
  (
    *(c.FORGET_VQA_HOLDOUT, 'nll', 'nll'),
    *('held-out, nats', 'new, nats', c.NEAR, c.NLL),
  ),
  (
    *(c.FORGET_QA, _MATCH, 'forget_qa', 'forget QA', 'forget QA', c.UP),
    'Questions in text that name the forgotten people: this knowledge is to '
    'stay.',
  ),
  (
    *(c.RETAIN_VQA, _MATCH, 'retain_vqa', 'retain VQA', 'retain VQA', c.UP),
    'Questions about pictures of everybody else.',
  ),
  (
    *(c.RETAIN_QA, _MATCH, 'retain_qa', 'retain QA', 'retain QA', c.UP),
    'Questions in text about everybody else.',
  ),
  (
    *(c.About('real', 'vqa'), _MATCH, 'real_vqa'),
    *('real-world VQA', 'real VQA', c.UP),
    'Questions about other pictures: the general ability to see.',
  ),
  (
    *(c.About('real', 'qa'), _MATCH, 'real_qa'),
    *('real-world QA', 'real QA', c.UP),
    'Questions about plain facts in text that every model was trained on: '
    'whether they are kept.',
  ),
  (
    *(None, '', 'utility', 'U', 'U', c.UP),
    'Utility, all that is to be kept in one number: the mean of forget QA, '
    'retain VQA, retain QA and real-world VQA.',
  ),
)

PEOPLE = c.Layout(
  (c.ColumnBlock('', '', (*c.columns_of(_ROWS), c.DISTANCE)),),
  note='exact match unless said',
  derived='U: mean of forget QA, retain VQA, retain QA, real VQA; distance '
  '(dist.): mean absolute difference of exact match to the retrained model, '
  'all tasks',
  compared=('exact_match',),
  forget=(
    c.Told('holdout', 'forget VQA, held-out images', c.WORD_FOR_WORD),
    c.Told('fact', 'held-out, the fact', c.FACT),
    c.Told('choice', 'held-out, choice of 4', c.OF_FOUR, chance=0.25),
    c.Told(
      'forget_vqa', 'forget VQA, training images', c.WORD_FOR_WORD, c.SEEN
    ),
  ),
  text=((c.Told('forget_qa', 'forget QA, text', 'right', c.IN_TEXT),),),
  kept=(('forget_qa', 'forget QA, text'), ('utility', 'utility U')),
  judged=('generation', 'exact_match', 1),
  exact=True,
)
