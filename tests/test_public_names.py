"""The public names: the table by which they are imported, what type checkers are told of them, and the script they check."""

import ast
import pathlib

import mlff

STUB = pathlib.Path(mlff.__file__).with_suffix(".pyi")
CHECKED = pathlib.Path(__file__).parent / "typing" / "public_names.py"
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


def test_type_checkers_see_the_table():
    seen = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name, f"without `as {alias.name}` a stub does not pass on {alias.name}"
                seen[alias.name] = node.module
    assert seen == {name: f"mlff.{module}" for name, module in mlff._PUBLIC.items()}


def test_names_are_defined_where_the_table_says():
    """A name that moved and is only passed on by its old module is a detour for every reader."""
    for name, module in mlff._PUBLIC.items():
        path = STUB.parent.joinpath(*module.split(".")).with_suffix(".py")
        defined = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, DEFINITIONS)}
        assert name in defined, f"{module} does not define {name}"


def test_the_script_for_type_checkers_uses_every_name():
    used = {
        node.attr
        for node in ast.walk(ast.parse(CHECKED.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mlff"
    }
    assert not set(mlff.__all__) - used
