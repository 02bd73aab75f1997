"""The table of the synthetic people."""

from mmu_jax.evaluation.report.layouts.columns import About
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

_UTILITY = Column(
  'utility',
  'U',
  'U',
  UP,
  'Utility, all that is to be kept in one number: the mean of forget '
  'QA, retain VQA, retain QA and real-world VQA.',
)

PEOPLE = Layout(
  (
    Block(
      '',
      '',
      (
        Column(
          'forget_vqa',
          'forget VQA, training images',
          'forget VQA train',
          DOWN,
          'Questions about the pictures of the forgotten people that '
          'the model was trained on.',
          FORGET_VQA,
        ),
        Column(
          'holdout',
          'forget VQA, held-out images',
          'forget VQA new',
          DOWN,
          'The same people in pictures that no model has seen: whether the '
          'person is forgotten, and not only the training pictures.',
          FORGET_VQA_HOLDOUT,
        ),
        Column(
          'choice',
          'held-out, choice of 4',
          'new, of four',
          DOWN,
          'The right one among four offered answers about held-out '
          'pictures; chance is .25. Above chance the picture still helps, '
          'so something is left; far below chance the model shuns the right '
          'answer, which is a trace as well.',
          FORGET_VQA_HOLDOUT,
          'choice',
        ),
        Column(
          'forget_qa',
          'forget QA',
          'forget QA',
          UP,
          'Questions in text that name the forgotten people: this knowledge '
          'is to stay.',
          FORGET_QA,
        ),
        Column(
          'retain_vqa',
          'retain VQA',
          'retain VQA',
          UP,
          'Questions about pictures of everybody else.',
          RETAIN_VQA,
        ),
        Column(
          'retain_qa',
          'retain QA',
          'retain QA',
          UP,
          'Questions in text about everybody else.',
          RETAIN_QA,
        ),
        Column(
          'real_vqa',
          'real-world VQA',
          'real VQA',
          UP,
          'Questions about other pictures: the general ability to see.',
          About('real', 'vqa'),
        ),
        Column(
          'real_qa',
          'real-world QA',
          'real QA',
          UP,
          'Questions about plain facts in text that every model was trained '
          'on: whether they are kept.',
          About('real', 'qa'),
        ),
        _UTILITY,
        DISTANCE,
      ),
    ),
  ),
  note='exact match unless said',
  derived='U: mean of forget QA, retain VQA, retain QA, real VQA; distance '
  '(dist.): mean absolute difference of exact match to the retrained model, '
  'all tasks',
  compared=('exact_match',),
  forget=Told(
    'holdout',
    'forget VQA, held-out images',
    'questions about new pictures of them',
  ),
  text=Told('forget_qa', 'forget QA, text', 'questions in text about them'),
  kept=(('forget_qa', 'forget QA, text'), ('utility', 'utility U')),
  judged=('generation', 'exact_match', 1),
  exact=True,
)
