"""Fields of the attacks: type, range, and meaning."""

from mmu_jax.settings.rules import below
from mmu_jax.settings.rules import number
from mmu_jax.settings.rules import one_of
from mmu_jax.settings.rules import several
from mmu_jax.settings.rules import Table
from mmu_jax.settings.rules import TEXT
from mmu_jax.settings.rules import whole

_MODELS: Table = {
  'models': (several(TEXT, 0), 'models that `mmu pipeline` attacks')
}
_BATCHES: Table = {
  'rows': (whole(1), 'questions that are asked at most'),
  'size': (whole(1), 'pictures, or groups of texts, of a batch'),
  'questions': (whole(1), 'questions about each'),
}
_RATE = (number(1e-12, 1e3), 'learning rate of AdamW')
_RELEARN: Table = {
  'steps': (several(whole(0)), 'steps after which a model is asked'),
  'cases.*.learns': (
    one_of('pictures', 'retain', 'text'),
    'data of the finetuning: pictures to forget, others, or text',
  ),
  'cases.*.pictures': (whole(0), 'pictures of each to forget; 0: all'),
  'cases.*.draw': (whole(0), 'number of the draw of these pictures'),
  'cases.*.rate': _RATE,
}
_TRANSFER: Table = {
  'steps': (whole(1), 'steps of finetuning'),
  'pictures': (whole(0), 'pictures of each to forget; 0: all'),
  'rate': _RATE,
}
_ASKED: Table = {'rows': (whole(1), 'most questions of a kind')}
_MEMBERSHIP: Table = {
  'gradient_rows': (whole(1), 'most answers of a kind with a gradient'),
  'share': (number(0, 1, above=True), 'share of the tokens of min-k'),
}
_PROBE: Table = {
  'layers': (whole(1), 'most layers, evenly spread'),
  'pictures': (
    several(whole(0)),
    'pictures of each person that probes learn from; 0: all',
  ),
  'ridge': (number(1e-9, 1e6), 'penalty of the size of the weights'),
}

ATTACKS: Table = {
  **below('relearn', _MODELS | _BATCHES | _RELEARN),
  **below('transfer', _MODELS | _BATCHES | _TRANSFER),
  **below('membership', _MODELS | _ASKED | _MEMBERSHIP),
  **below('quantize', _MODELS | _ASKED),
  **below('prompts', _MODELS | _ASKED),
  **below('probe', _MODELS | _PROBE),
}
