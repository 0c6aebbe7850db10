"""Files and rooms import downwards: no circle among files, and each room knows only the rooms below it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. A room may import those before it; what stands on one line knows nothing of one another.
ROOMS = (
    ("critic_models.errors", "critic_models.lengths", "critic_models.safe_rlhf", "critic_models.validation"),
    ("critic_models.safety", "critic_models.identity", "critic_models.gguf", "critic_models.api_key"),
    ("critic_models.strict_json", "critic_models.http_loop", "critic_models.exchange"),
    ("critic_models.hub",),
    ("critic_models.score_models", "critic_models.critic"),
    ("critic_models.judges",),
    ("critic_models.training",),
    ("critic_models.bundled",),
    ("ig_plugins.errors", "ig_plugins.call_options", "ig_plugins.observing"),
    ("ig_plugins.chat", "ig_plugins.engine", "ig_plugins.telemetry"),
    ("ig_plugins.grammar", "ig_plugins.search"),
    ("ig_plugins.presets", "ig_plugins.runtime"),
    ("ig_plugins.remote",),
    ("ig_plugins.guard",),
    ("ig_plugins.page",),
    ("ig_plugins.research", "ig_plugins.server"),
    ("ig_plugins.cli",),
)
LEVEL = {room: level for level, line in enumerate(ROOMS) for room in line}


def modules():
    """Module name to file, packages as their ``__init__``."""
    found = {}
    for package in ("critic_models", "ig_plugins"):
        for path in (ROOT / package).rglob("*.py"):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    return found


def imports(source, known):
    """The modules that a source imports, wherever it does, under TYPE_CHECKING too."""
    wanted = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            wanted += [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            wanted += [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
    places = ([each for name in names for each in (name, f"{name}.__init__") if each in known] for names in wanted)
    return {found[0] for found in places if found}


def graph():
    known = modules()
    return {name: imports(path.read_text(encoding="utf-8"), known) - {name} for name, path in known.items()}


def circles(arrows):
    """Sets of more than one node that reach one another."""
    reach = {node: set(arrows[node]) for node in arrows}
    grown = True
    while grown:
        grown = False
        for node in reach:
            more = set().union(*(reach[other] for other in reach[node]), reach[node])
            grown |= more != reach[node]
            reach[node] = more
    return {frozenset(other for other in reach[node] if node in reach[other]) for node in reach if node in reach[node]}


def room(module):
    return ".".join(module.split(".")[:2])


def upward(arrows):
    """Imports of a room that stands higher, or beside."""
    pairs = {(room(name), room(other)) for name in arrows for other in arrows[name]}
    return {(a, b) for a, b in pairs if a != b and a in LEVEL and b in LEVEL and LEVEL[b] >= LEVEL[a]}


def test_no_file_is_in_a_circle():
    assert circles(graph()) == set()


def test_rooms_know_only_what_is_below_them():
    assert upward(graph()) == set()


def test_every_room_has_its_place():
    rooms = {room(name) for name in modules()} - {"critic_models.__init__", "ig_plugins.__init__"}
    assert rooms == set(LEVEL)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("ig_plugins.engine.session", "from ig_plugins.engine.model import TreeModel"),
        ("critic_models.identity.plain", "import critic_models.identity.weights"),
        ("ig_plugins.search.verifier", "def f():\n    from ig_plugins.search import BlockSearch"),
    ],
)
def test_a_circle_that_is_put_in_is_found(module, line):
    arrows, known = graph(), modules()
    arrows[module] |= imports(line, known)
    assert any(module in circle for circle in circles(arrows))


def test_an_import_upwards_that_is_put_in_is_found():
    arrows = graph()
    arrows["ig_plugins.search.verifier"] |= imports("import ig_plugins.research.methods.base", modules())
    assert upward(arrows) == {("ig_plugins.search", "ig_plugins.research")}
