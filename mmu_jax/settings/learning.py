"""Fields of learning: streams, optimizers, trainings, runs and masks."""

import math

from mmu_jax.settings.rules import ANY
from mmu_jax.settings.rules import below
from mmu_jax.settings.rules import FLAG
from mmu_jax.settings.rules import number
from mmu_jax.settings.rules import one_of
from mmu_jax.settings.rules import several
from mmu_jax.settings.rules import Table
from mmu_jax.settings.rules import TEXT
from mmu_jax.settings.rules import whole

POSITIVE = number(0, above=True)
# Beyond these a float32 step is nothing, or everything.
RATE = number(1e-12, 1e3)
FACTOR = number(1e-6, 1e6)
OR_INF = number(1e-6, math.inf)
SHARE = number(0, 1, below=True)
COUNT, ONE = whole(0), whole(1)
NAMES = several(TEXT)

PART: Table = {
  'splits': (NAMES, 'splits that rows are drawn from; vqa:forget is a role'),
  'size': (ONE, 'rows of a batch'),
  'questions': (ONE, 'questions about one picture that share a row'),
  'weight': (FACTOR, 'factor of the loss of these rows'),
}
# Adapters in the place of the whole weights; see `mmu_jax.lora`.
LORA: Table = {
  'rank': (whole(0, 2**13), 'columns of a factor; 0: whole weights, no LoRA'),
  'alpha': (FACTOR, 'factor alpha / rank of the product of both factors'),
  'targets': (NAMES, 'all-linear, components, or regexes of leaf names'),
  'whole': (
    several(TEXT, 0),
    'components or regexes of leaves without factors',
  ),
  'rslora': (FLAG, 'alpha / the root of the rank, instead'),
  'dtype': (one_of('float32', 'bfloat16'), 'dtype of the frozen weights'),
}
OPTIMIZER: Table = {
  'name': (TEXT, 'key of optimizer.OPTIMIZERS, as hf_adamw or adamw'),
  'b1': (SHARE, 'decay of the mean of gradients'),
  'b2': (SHARE, 'decay of the mean of squared gradients'),
  'eps': (number(1e-20, 1), 'added to the root of a mean square'),
  'weight_decay': (number(0, 1e3), 'pull of the weights to 0'),
  'momentum': (SHARE._replace(null=True), 'decay of the sum of gradients'),
  'chain': (
    several(one_of('mask', 'project', 'clip', 'optimizer')),
    'order from a gradient to an update',
  ),
  '*': (ANY, 'another option of the optimizer'),
}
TRAINING: Table = {
  'rounds': (whole(0, null=True), 'optimizer steps; 0: none; None: by epochs'),
  'epochs': (ONE, 'passes over the stream, where rounds is None'),
  'rate': (RATE, 'highest learning rate'),
  'schedule': (one_of('constant', 'linear', 'cosine'), 'course of the rate'),
  'warmup': (COUNT, 'rounds in which the rate rises'),
  'clip_norm': (OR_INF, 'largest norm of a gradient; inf: no clip'),
  'save_every': (ONE, 'rounds between checkpoints'),
  **below('optimizer', OPTIMIZER),
  **below('stream.#', PART),
  **below('lora', LORA),
}
TEACHER = one_of('', 'others', 'base', 'refusal', 'random')
RUN: Table = {
  'method': (TEXT, 'name of a method, a key of methods.METHODS'),
  'rate': (RATE, 'learning rate of the forget turns'),
  'mask': (
    TEXT,
    "weights that may change, '': all; also a key of config.masks",
  ),
  'retain': (TEXT, 'stream of the retain turns, of config.unlearn.streams'),
  'forget': (TEXT, 'stream of the forget turns'),
  'retain_rate': (RATE, 'learning rate of the retain turns'),
  'reference': (TEXT, 'model that KL and NPO compare with'),
  'teacher': (TEACHER, "gives the split relabelled its answers; '': none"),
  'rounds': (whole(1, null=True), 'rounds; None: as config.unlearn has it'),
  'schedule': (one_of('constant', 'linear', 'cosine'), 'course of the rates'),
  'warmup': (COUNT, 'rounds in which the rates rise'),
  'clip_norms.*': (OR_INF, 'clip_norm of the turns on a split'),
  **below('lora', LORA),
  'options.forget_every': (
    whole(1, null=True),
    'rounds between forget turns; None: spread evenly',
  ),
  'options.alpha': (FACTOR, 'weight of the ascent'),
  'options.weight': (FACTOR, 'weight of the ascent beside what is learned'),
  'options.spared': (number(0, 1), 'how far tokens that base says are spared'),
  'options.margin': (
    POSITIVE._replace(null=True),
    'nats that forget an answer; None: as on other pictures',
  ),
  'options.beta': (FACTOR, 'inverse temperature of NPO'),
  'options.gamma': (number(0), 'margin of SimNPO, in units of beta nll'),
  'options.strength': (FACTOR, 'amount by which UNDIAL lowers a logit'),
  'options.layer': (COUNT, 'decoder layers before the states of RMU'),
  'options.steering': (FACTOR, 'length of misdirected states over their own'),
  'options.power': (number(0), 'exponent by which known answers count more'),
  'options.scale': (FACTOR, 'factor of a task vector'),
  'options.masked': (FLAG, 'whether the mask of the run acts'),
  'options.per': (one_of('answer', 'batch'), 'terms of the NPO loss'),
  'options.kl_over': (one_of('answers', 'rows'), 'positions of the KL'),
  'options.*': (ANY, 'another option of the method'),
}
SALIENCY: Table = {
  **below('forget.#', PART),
  **below('preserve.*.#', PART),
  'protects.*': (NAMES, 'preserve sets that protect a component'),
  'preserve_loss': (
    one_of('answers', 'margin'),
    'loss of the preserve importances: nll, or log odds',
  ),
  'threshold': (POSITIVE, 'lowest ratio of a weight that may change'),
  'density': (
    number(0, 1, above=True, below=True, null=True),
    'share of a component that may change; None: by threshold',
  ),
  'normalize': (FLAG, 'importances are divided by their means'),
  'ties_are_salient': (FLAG, 'unused weights may change'),
}
# Changes of config.saliency that make another mask.
MASK: Table = SALIENCY | {
  'kind': (one_of('saliency', 'topk', 'random'), 'way to choose the weights'),
  'of': (TEXT, 'mask that topk and random are as dense as'),
  'teacher': (TEACHER, "gives the split relabelled its answers; '': none"),
  'retain': (TEXT, 'stream with the people whom the teacher may name'),
}
