"""The pages of documentation, and the blocks of code in them."""

import pathlib
import re
import shlex
from typing import NamedTuple

from paths import ROOT

PAGES = tuple(
  path.relative_to(ROOT).as_posix()
  for path in (
    ROOT / 'README.md',
    *sorted((ROOT / 'docs').glob('*.md')),
    ROOT / 'CONTRIBUTING.md',
    ROOT / 'CHANGELOG.md',
    ROOT / 'launch' / 'README.md',
  )
)
_BLOCK = re.compile(
  r'(?:^[ ]*<!-- (not run|file|skips): ([^\n]*?) -->\n)?'
  r'^([ ]*)```(\w*)\n(.*?)^\3```$',
  re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
  """A fenced block of code.

  Attributes:
    line: line of the page where its code begins.
    language: word behind the fence, '' for none.
    text: the code, without the indentation of the fence.
    mark: 'not run', 'file', 'skips' (lines of a doctest), or '' for a block
      without a comment above it.
    said: rest of the comment: the reason, or the name of the file.
  """

  line: int
  language: str
  text: str
  mark: str
  said: str


def read(page: str) -> str:
  """Returns the text of a page."""
  return (ROOT / page).read_text(encoding='utf-8')


def blocks(page: str) -> list[Block]:
  """Returns the blocks of code of a page, from its top to its end."""
  text, found = read(page), []
  for match in _BLOCK.finditer(text):
    mark, said, indent, language, code = match.groups()
    line = text.count('\n', 0, match.start(5)) + 1
    code = re.sub(rf'^{indent}', '', code, flags=re.MULTILINE)
    found.append(Block(line, language, code, mark or '', said or ''))
  return found


def prose(page: str) -> str:
  """Returns a page without its blocks of code."""
  return _BLOCK.sub('', read(page))


def commands(block: Block) -> list[list[str]]:
  """Returns the words of every command in a block of shell.

  A backslash joins lines, and a comment belongs to no command.
  """
  joined = block.text.replace('\\\n', ' ')
  lines = (shlex.split(line, comments=True) for line in joined.splitlines())
  return [words for words in lines if words]


def anchors(page: pathlib.Path) -> set[str]:
  """Returns the names that a link into a page can end with."""
  titles = re.findall(r'^#+ (.*)$', page.read_text(), re.MULTILINE)
  plain = [re.sub(r'[^\w -]', '', title.lower()) for title in titles]
  return {title.replace(' ', '-') for title in plain}
