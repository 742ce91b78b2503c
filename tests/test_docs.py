"""What the documents say is so: docstrings are there, files and commands exist."""

import re
import shlex

import pytest

import launch
from tests.source_rules import ROOT, docstring_violations, parse_source, studio_sources

COMMAND = re.compile(r"python3? launch\.py([^\n`]*)")
TREE_ENTRY = re.compile(r"^(?P<indent>[ │├└─]*)(?P<name>[\w./-]+)(?:\s{2,}|\s*$|\s+#)")
PAGES = ("README.md", "studio/README.md")


def commands_in(text):
    """Yield the argument list of each `python launch.py ...` in a document."""
    for line in COMMAND.findall(text):
        words = re.split(r"[)(;]|\s#|\s{3,}", line)[0].strip().rstrip(".,:")
        yield shlex.split(words.replace("...", "").replace("…", ""))


def tree_paths(text):
    """Yield the paths of the first indented tree in a code block, folders joined to their files."""
    block = re.search(r"```\w*\n(studio/\n.*?)```", text, re.DOTALL)
    assert block, "studio/README.md has no code block with the tree that begins with 'studio/'"
    parents = []
    for line in block.group(1).splitlines():
        entry = TREE_ENTRY.match(line)
        if entry is None:
            continue
        indent, name = len(entry["indent"]), entry["name"]
        while parents and parents[-1][0] >= indent:
            parents.pop()
        yield "".join([folder for _, folder in parents] + [name])
        if name.endswith("/"):
            parents.append((indent, name))


def test_every_public_thing_has_a_docstring_that_is_a_sentence():
    assert [line for source in studio_sources() for line in docstring_violations(source)] == []


@pytest.mark.parametrize(
    "text",
    [
        '"""Fine."""\ndef draw(): ...',
        '"""Fine."""\nclass Shelf:\n    """A shelf."""\n    def load(self): ...',
        '"""Fine."""\ndef draw():\n    """draws it."""',
        '"""Fine."""\ndef draw():\n    """Draws"""',
        "x = 1",
    ],
)
def test_the_rule_of_docstrings_sees_an_offender(text):
    assert len(docstring_violations(parse_source("studio.core.offender", text))) == 1


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_a_readme_is_one_that_the_launcher_takes(page):
    commands = list(commands_in((ROOT / page).read_text(encoding="utf-8")))
    assert commands or page != "README.md"
    for arguments in commands:
        launch.parse(arguments)  # exits with a sentence when it does not know them


def test_a_command_that_does_not_exist_is_noticed():
    [arguments] = commands_in("Run `python launch.py paint --fast`.")
    with pytest.raises(SystemExit):
        launch.parse(arguments)


def test_the_map_names_files_that_exist():
    paths = list(tree_paths((ROOT / "studio" / "README.md").read_text(encoding="utf-8")))
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_map_names_every_module():
    text = (ROOT / "studio" / "README.md").read_text(encoding="utf-8")
    named = set(tree_paths(text))
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "studio").rglob("*.py")
        if path.name != "__init__.py" and "migrations" not in path.parts
    }
    assert sorted(modules - named) == []


def test_every_flag_of_the_launcher_is_explained():
    parsers = [launch.make_parser()]
    commands = next(a for a in parsers[0]._actions if a.dest == "command")
    parsers += commands.choices.values()
    flags = [action for parser in parsers for action in parser._actions]
    assert len(flags) > 60
    assert [flag.option_strings for flag in flags if flag is not commands and not flag.help] == []
