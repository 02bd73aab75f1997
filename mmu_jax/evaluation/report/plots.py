"""Four pictures of a comparison, each a matplotlib Figure.

The figures are made without pyplot: no global state, no display, nothing to
close. A run keeps its colour and its marker in every plot.
"""

from collections.abc import Sequence
import textwrap

from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import KEEP
from mmu_jax.data.dataset import QA
from mmu_jax.data.dataset import VQA
from mmu_jax.evaluation.report import labels
from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report import table
from mmu_jax.evaluation.report.layouts.columns import Column
from mmu_jax.evaluation.report.layouts.columns import Layout
from mmu_jax.evaluation.report.layouts.columns import Told

# Okabe & Ito's palette first, then Tol's muted one: told apart by readers
# with any of the common colour vision deficiencies; the marker differs too.
_KNOWN = {
  'vanilla': ('#000000', 'o'),
  'retrained': ('#000000', '*'),
  'ga': ('#E69F00', 'v'),
  'ga_diff': ('#D55E00', '^'),
  'kl_min': ('#CC79A7', 'D'),
  'npo': ('#882255', 's'),
  'mmunlearner': ('#0072B2', 'o'),
  'mmunlearner_strict': ('#56B4E9', 'P'),
  'mmunlearner_projected': ('#332288', 'X'),
  'mmunlearner_topk': ('#009E73', '<'),
  'mmunlearner_random': ('#8A8A8A', '>'),
  'counterfactual': ('#8800DD', 'p'),
  'mmunlearner_counterfactual': ('#880000', 'h'),
}
_SPARE = ('#999933', '#44AA99', '#AA4499', '#117733', '#B8860B', '#6699CC')
_SPARE_MARKERS = ('h', 'd', 'p', '8')
_MASK_RUNS = {
  'saliency': 'mmunlearner',
  'topk': 'mmunlearner_topk',
  'random': 'mmunlearner_random',
  'turn': 'mmunlearner_counterfactual',
}
_MASK_TITLES = {
  'turn': 'counterfactual turn',
  'turn_topk': 'counterfactual turn, top-k',
  'turn_random': 'counterfactual turn, random',
}
_MATCH = 'exact_match'  # the metric of probes
# What probes are plotted against: split and modality of what is kept.
_KEPT = (('retain', VQA, 'retain VQA'), (FORGET, QA, 'forget QA (text)'))


def styles(runs: Sequence[str]) -> dict[str, tuple[str, str]]:
  """``{run: (colour, marker)}``; a run without its own takes a spare one."""
  unknown = [run for run in dict.fromkeys(runs) if run not in _KNOWN]
  spare = {
    run: (_SPARE[i % len(_SPARE)], _SPARE_MARKERS[i % len(_SPARE_MARKERS)])
    for i, run in enumerate(unknown)
  }
  return {run: _KNOWN.get(run) or spare[run] for run in runs}


def _figure(size: tuple[float, float]):
  """An empty figure, in inches."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=size, dpi=150, layout='constrained')
  FigureCanvasAgg(figure)  # a renderer, to measure the labels with
  return figure


def _grid(figure, rows: int, across: int, **kwargs):
  """Plain axes ``[rows, across]`` in a figure, or in a part of one."""
  axes = figure.subplots(rows, across, squeeze=False, **kwargs)
  for ax in axes.flat:
    ax.spines[['top', 'right']].set_visible(False)
    ax.grid(color='#e4e4e4', linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=9)
  return axes


def panels(count: int, across: int):
  """Returns a figure and its plain panels, some in a row.

  Args:
    count: number of panels, at least 1.
    across: most panels of a row.

  Returns:
    The figure, and a list of ``count`` axes with common limits.
  """
  rows = -(-count // across)
  figure = _figure((12, 3 * rows + 0.4))
  axes = list(_grid(figure, rows, across, sharey=True).flat)
  for ax in axes[count:]:
    ax.set_axis_off()
  return figure, axes[:count]


def _wanted(ax, x: str, y: str):
  """Names the axes and the wanted directions: the upper left is good."""
  ax.set_xlabel(f'{x}  (← wanted)', fontsize=10)
  ax.set_ylabel(f'{y}  (wanted →)', fontsize=10)
  ax.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.07))


def _spans(x, y) -> list[list[tuple[float, float]]]:
  """The intervals of a point as paths: along x, along y, where known."""
  spans = []
  if x.low is not None and x.high is not None:
    spans.append([(x.low, y.value), (x.high, y.value)])
  if y.low is not None and y.high is not None:
    spans.append([(x.value, y.low), (x.value, y.high)])
  return spans


def _point(ax, x: float, y: float, run: str, style: tuple[str, str]):
  """The marker of a run; the retrained model is a star before all others."""
  colour, marker = style
  more = {'ms': 7, 'mec': 'white', 'mew': 0.6, 'zorder': 3}
  if run == scored.RETRAINED:
    more = {'ms': 14, 'mec': 'white', 'mew': 1, 'zorder': 6}
  ax.plot(x, y, marker=marker, color=colour, ls='', clip_on=False, **more)


def _zoom(ax, spans: Sequence, points: dict):
  """Limits around the points and their intervals."""
  if not points:
    return
  ends = [xy for path in spans for xy in path] + list(points.values())
  for axis, values in zip('xy', zip(*ends)):
    low, high = max(min(values), 0), min(max(values), 1)
    margin = 0.03 + 0.05 * (high - low)
    ax.set(**{f'{axis}lim': (low - margin, high + margin)})


def tradeoff(results: Sequence[dict]):
  """Forgotten against kept, one point per run.

  Both panels have the forgetting in pictures on the x axis (for the synthetic
  people and MLLMU-Bench on held-out images); their y axes are ``Layout.kept``:
  retain VQA or the utility U, and forget QA (was the text about the same people
  kept?). The star, the retrained model, is where to be. Thin lines are 95 %
  intervals.

  Args:
    results: lines of ``results.jsonl``.

  Returns:
    A ``matplotlib.figure.Figure``.
  """
  shown = scored.defined(scored.rows(results))
  layout = scored.shown_layout(results)
  style = styles(list(shown))
  forget, kept = _plotted(layout, shown)
  figure = _figure((12, 5))
  axes = _grid(figure, 1, max(len(kept), 1))
  for ax, (key, title) in zip(axes[0], kept):
    _wanted(ax, forget.title, title)
    pairs = {
      run: (cells[forget.key], cells[key])
      for run, cells in shown.items()
      if {forget.key, key} <= set(cells)
    }
    points = {run: (x.value, y.value) for run, (x, y) in pairs.items()}
    spans = {run: _spans(x, y) for run, (x, y) in pairs.items()}
    for run, xy in points.items():
      for path in spans[run]:
        ax.plot(*zip(*path), color=style[run][0], lw=1, alpha=0.45, zorder=1)
      _point(ax, *xy, run, style[run])
    paths = [path for found in spans.values() for path in found]
    _zoom(ax, paths, points)
    colours = {run: style[run][0] for run in points}
    labels.place_labels(ax, points, colours, paths)
  return figure


def _plotted(layout: Layout, shown: dict) -> tuple[Told, list]:
  """What to plot: the first score of recognition by which models differ.

  With it go at most two scores to keep: of its metric, if it is not the first.
  """
  values = lambda key: [
    cells[key].value for cells in shown.values() if key in cells
  ]
  differ = lambda told: (
    max(v := values(told.key), default=0) - min(v, default=0)
  )
  forget = next(
    (t for t in layout.forget if differ(t) >= 0.1), layout.forget[0]
  )
  kept = [(key, title) for key, title in layout.kept if values(key)]
  if forget != layout.forget[0]:
    metric = {c.key: c.metric for block in layout.blocks for c in block.columns}
    same = [x for x in kept if metric[x[0]] == metric[forget.key]]
    kept = same or kept
  return forget, kept[:2]


def trajectory(histories: dict[str, list[dict]], results: Sequence[dict]):
  """The way of every method from the vanilla model, probe by probe.

  Args:
    histories: ``{run: rows of its metrics.jsonl}``; rows without a 'probe'
      are passed over.
    results: lines of ``results.jsonl``, for the two fixed points.

  Returns:
    A ``matplotlib.figure.Figure``: forget VQA (on held-out images, where there
    are some) against retain VQA (left) and forget QA (right).
  """
  found = scored.defined(scored.scores(results))
  tasks = scored.tasks_in(results)
  style = styles(list(dict.fromkeys([*found, *histories])))
  figure = _figure((12, 5))
  axes = _grid(figure, 1, 2)
  forget = next(iter(scored.headlines(tasks, FORGET)), None)
  keep = scored.headlines(tasks, KEEP)
  title = 'forget VQA'
  if forget and forget.holdout:
    title = 'forget VQA, held-out images'
  for ax, (split, modality, kept) in zip(axes[0], _KEPT):
    _wanted(ax, title, kept)
    task = next((x for x in keep if x[2:4] == (split, modality)), None)
    if not forget or not task:
      continue
    both = {forget.name, task.name}
    paths = {}  # where a run was at every probe
    for run, rows in histories.items():
      probes = [row.get('probe', {}) for row in rows]
      paths[run] = [
        (probe[forget.name], probe[task.name])
        for probe in probes
        if both <= probe.keys() and None not in map(probe.get, both)
      ]
    paths = {run: path for run, path in paths.items() if path}
    fixed = {
      run: tuple(
        found[run][name, _MATCH].value for name in (forget.name, task.name)
      )
      for run in (scored.VANILLA, scored.RETRAINED)
      if {(name, _MATCH) for name in both} <= found.get(run, {}).keys()
    }
    for run, path in paths.items():
      colour = style[run][0]
      ax.plot(*zip(*path), color=colour, lw=1.4, alpha=0.8, zorder=2)
      ax.plot(*zip(*path[1:-1]), color=colour, marker='.', ms=5, ls='')
    ends = {run: path[-1] for run, path in paths.items()} | fixed
    for run, xy in ends.items():
      _point(ax, *xy, run, style[run])
    _zoom(ax, list(paths.values()), ends)
    colours = {run: style[run][0] for run in ends}
    labels.place_labels(ax, ends, colours, list(paths.values()))
  return figure


_ACROSS = 4  # panels in a row


def bars(results: Sequence[dict]):
  """Every score of every run that is compared, one panel per column.

  The dotted line is the retrained model, the bar's whisker the 95 % interval,
  the dashed line chance where options are offered.

  Args:
    results: lines of ``results.jsonl``.

  Returns:
    A ``matplotlib.figure.Figure``.
  """
  shown, layout = scored.rows(results), scored.shown_layout(results)
  blocks = [
    block
    for block in scored.shown_blocks(results)
    if {c.metric for c in block.columns} & set(layout.compared)
  ]
  # Exposure is in bits and nll in nats, not in [0, 1].
  fits = lambda c: c.about and not c.metric.endswith(('exposure', 'nll'))
  panels = {b.title: list(filter(fits, b.columns)) for b in blocks}
  rows = [-(-len(panel) // _ACROSS) for panel in panels.values()]
  height = 1.2 + 0.26 * len(shown)
  figure = _figure((12, max(sum(rows), 1) * height))
  if not panels:
    return figure
  parts = figure.subfigures(len(rows), 1, height_ratios=rows, squeeze=False)
  for part, n, (title, panel) in zip(parts.flat, rows, panels.items()):
    if title:
      part.suptitle(title, fontsize=11, fontweight='bold', x=0.01, ha='left')
    axes = _grid(part, n, _ACROSS, sharey=True)
    for ax in axes.flat[len(panel) :]:
      ax.set_axis_off()
    for ax, column in zip(axes.flat, panel):
      _panel(ax, column, shown, _chance(column, layout))
    axes[0, 0].invert_yaxis()
  return figure


def _chance(column: Column, layout) -> float:
  """The share that guessing gives, where a line shows it; or 0."""
  if column.metric == 'choice':
    return 0.25
  first = layout.forget[0]
  return first.chance if column.metric == 'accuracy' else 0


def _panel(ax, column: Column, shown: dict, chance: float):
  """One score of every run."""
  key, style = column.key, styles(list(shown))
  for row, (run, cells) in enumerate(shown.items()):
    if key in cells:
      _bar(ax, row, cells[key], style[run][0])
  gold = shown.get(scored.RETRAINED, {}).get(key)
  if gold and gold.is_defined:
    ax.axvline(gold.value, color='black', lw=1, ls=':', zorder=2)
  title = column.title
  if chance:
    ax.axvline(chance, color='#D55E00', lw=1, ls='--', zorder=2)
    title += ' (dashed: chance)'
  title = textwrap.fill(f'{title}\u00a0{column.wanted}', 30)  # on one line
  ax.set_title(title, fontsize=9, loc='left')
  ax.set(xlim=(0, 1.22), xticks=(0, 0.5, 1))
  ax.grid(axis='y', visible=False)
  ax.set_yticks(range(len(shown)), list(shown), fontsize=8.5)


def _bar(ax, row: int, score, colour: str):
  """One bar with its interval and its number; no bar if it is undefined."""
  end = score.value if score.is_defined else 0
  if score.is_defined:
    ax.barh(row, score.value, color=colour, height=0.7, alpha=0.85)
  if score.low is not None and score.high is not None:
    for colour, width in (('white', 2.6), ('#333333', 1)):
      ax.plot([score.low, score.high], [row, row], color=colour, lw=width)
    end = max(end, score.high)
  ax.text(
    end + 0.02,
    row,
    table.number(score.value),
    va='center',
    fontsize=8,
    bbox={'fc': 'white', 'ec': 'none', 'pad': 0.6, 'alpha': 0.8},
  )


def mask_density(masks: dict[str, dict]):
  """How much each mask lets change, by component and by layer.

  Args:
    masks: ``{name: note}``, the notes of ``mask/<name>/note.json``.

  Returns:
    A ``matplotlib.figure.Figure``: share of the weights, in [0, 1], per
    component (left) and along the layers of the vision tower and the language
    model (right).
  """
  figure = _figure((12, 3.8))
  axes = _grid(figure, 1, 3, width_ratios=(1.5, 1, 1), sharey=True)[0]
  bars_by_part = axes[0]
  runs = {}  # the first mask of a kind has the colour of the run that uses it
  for name, note in masks.items():
    run = _MASK_RUNS.get(note['kind'], name)
    runs[name] = name if run in runs.values() else run
  taken = styles(list(runs.values()))
  parts = list(dict.fromkeys(p for n in masks.values() for p in n['density']))
  width = 0.8 / max(len(masks), 1)
  highest = 0.1
  for i, (name, note) in enumerate(masks.items()):
    colour, marker = taken[runs[name]]
    title = _MASK_TITLES.get(name, name)
    label = title if name == note['kind'] else f'{title} ({note["kind"]})'
    for j, part in enumerate(parts):
      if part not in note['density']:
        continue
      value, x = note['density'][part], j + (i - (len(masks) - 1) / 2) * width
      highest = max(highest, value)
      bars_by_part.bar(
        x, value, width * 0.92, color=colour, label=label if j == 0 else None
      )
      bars_by_part.text(
        x, value + 0.01, table.number(value), ha='center', fontsize=8
      )
    for ax, part in zip(axes[1:], ('vision', 'language')):
      layers = note.get('density_by_layer', {}).get(part, [])
      highest = max([highest, *layers])
      ax.plot(range(len(layers)), layers, color=colour, marker=marker, lw=1.4)
  bars_by_part.set_xticks(range(len(parts)), parts, fontsize=9.5)
  bars_by_part.set_title('by component', fontsize=10, loc='left')
  bars_by_part.set_ylabel('share of weights that may change', fontsize=10)
  bars_by_part.set_ylim(0, min(1.05, highest * 1.15))
  for ax, part in zip(axes[1:], ('vision tower', 'language model')):
    ax.set_title(f'{part}, by layer', fontsize=10, loc='left')
    ax.set_xlabel('layer', fontsize=9)
    ax.xaxis.get_major_locator().set_params(integer=True)
  figure.legend(
    loc='outside upper left',
    ncols=max(len(masks), 1),
    fontsize=9,
    frameon=False,
  )
  return figure
