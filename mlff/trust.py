"""Functions and classes that a file names: from which modules they are taken, and what counts as one.

Importing a module runs it, so a name in a file leads to an import only where the module belongs to this library's
`descriptors`, or where the reader named it. What is imported must be a function that this very module defines at its top
level, or a class that it defines and derives from one of those of which users may derive.
"""

from __future__ import annotations

import importlib
import inspect
import pathlib
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence

OWN = "descriptors"
HOME = pathlib.Path(__file__).resolve().parents[1]  # where `mlff` lies, and `descriptors` beside it
_NAME = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<function>[A-Za-z_]\w*)", re.ASCII)
_KINDS = {"function": types.FunctionType, "class": type}
_WORDS = {"function": "descriptor", "class": "class"}  # what messages call them
_SHOWN = 8  # names in a message
_UNFIT = frozenset({"mlff", *sys.stdlib_module_names})  # hold no descriptors, but functions that write, delete and run


def find_sources(
    functions: Iterable[str],
    classes: Iterable[str] = (),
    trusted: Sequence[str] = (),
    given: Mapping[str, Callable | type] | None = None,
    bases: tuple[type, ...] = (),
) -> dict[str, Callable | type]:
    """The functions and classes behind the names `package.module:name` of a file; nothing is imported unless all may be.

    Arguments:
        functions: names of functions.
        classes: names of classes.
        trusted: modules or packages, beside `descriptors`, from which they are imported.
        given: functions and classes by name, which are taken as they are.
        bases: the classes of which one is an ancestor of every class.
    Raises:
        ValueError: `trusted` names a module of Python's or of mlff's; a name is of a module that is not trusted (the message
            lists all of them), or no function or class of that kind that its module defines.
    """
    trusted, given = _modules(trusted), dict(given or {})
    functions, classes = set(functions), set(classes)
    wanted = sorted((functions | classes) - set(given))
    for name in wanted:
        if not _NAME.fullmatch(name):
            raise ValueError(f"names {name!r:.80}, which is no package.module:function")
    strange = [name for name in wanted if not _covered(name, (OWN, *trusted))]
    if strange:
        raise ValueError(_refusal(strange))
    sources = {**given, **{name: _imported(name, "class" if name in classes else "function") for name in wanted}}
    for name in sorted(classes):
        if not isinstance(sources[name], type) or not issubclass(sources[name], bases):
            expected = ", ".join(base.__name__ for base in bases)
            raise ValueError(f"{name:.80} is {sources[name]!r:.60}, expected a class derived from one of {expected}")
    for name in sorted(functions):
        if not callable(sources[name]):
            raise ValueError(f"{name:.80} is {sources[name]!r:.60}, expected a function")
    return sources


def require_trusted(names: Iterable[str], trusted: Sequence[str], refusal: str) -> None:
    """Refuse names of which one is of a module that is not trusted.

    Raises:
        ValueError: as `refusal` says it; or `trusted` names a module of Python's or of mlff's.
    """
    modules = (OWN, *_modules(trusted))
    if not all(_covered(name, modules) for name in names):
        raise ValueError(refusal)


def named_again(name: str) -> bool:
    """Whether a function or class can be found again by its name: it is of the top level of a module, which is no script or
    notebook."""
    return _NAME.fullmatch(name) is not None and not name.startswith("__main__:")


def _modules(trusted: Sequence[str]) -> tuple[str, ...]:
    if isinstance(trusted, str):
        raise ValueError(f"trusted={trusted!r}: give the names of modules as a tuple, trusted=({trusted!r},)")
    for name in trusted:
        if not isinstance(name, str) or not _NAME.fullmatch(f"{name}:function"):
            raise ValueError(f"trusted: {name!r} is no name of a module; write trusted=('mypackage',)")
        if name.split(".")[0] in _UNFIT:
            raise ValueError(f"trusted: {name} holds no descriptors; name the module of your own that defines them")
    return tuple(trusted)


def _covered(name: str, modules: Iterable[str]) -> bool:
    """Whether the module of a name is one of some, or lies below one."""
    return any(f"{name.partition(':')[0]}.".startswith(f"{module}.") for module in modules)


def _refusal(strange: list[str]) -> str:
    listed = ", ".join(f"{name:.80}" for name in strange[:_SHOWN]) + (", …" if len(strange) > _SHOWN else "")
    modules = sorted({name.partition(":")[0].split(".")[0][:80] for name in strange} - _UNFIT)[:_SHOWN]
    refused = f"wants {listed}, and to import a function runs the module that it is in"
    if not modules:
        return f"{refused}; no descriptor is there, so this file is not to be used"
    return (
        f"{refused}; if you know these modules, name them, trusted={tuple(modules)} or "
        f"{' '.join(f'--trust {module}' for module in modules)}, or hand them over, descriptors={{{strange[0]!r:.80}: …}}"
    )


def _imported(name: str, kind: str) -> Callable | type:
    """The function or class of that name, defined at the top level of that module.

    Raises:
        ValueError: no such module, function or class.
    """
    module, _, attribute = name.partition(":")
    if _covered(name, (OWN,)):
        _require_our_descriptors()
    try:
        content = vars(importlib.import_module(module)).get(attribute)
    except Exception as error:  # whatever the module does when it is run
        raise ValueError(f"{_WORDS[kind]} {name} cannot be imported ({error}); {_remedy(module)}") from error
    defined = inspect.unwrap(content) if callable(content) else None
    if not isinstance(defined, _KINDS[kind]) or (defined.__module__, defined.__qualname__) != (module, attribute):
        raise ValueError(
            f"{_WORDS[kind]} {name} cannot be imported (module {module} defines no {kind} {attribute}); {_remedy(module)}"
        )
    return content


def _require_our_descriptors() -> None:
    """Refuse a folder that hides the package beside mlff, such as one of the same name in the current folder."""
    place = pathlib.Path(importlib.import_module(OWN).__file__).resolve().parent
    if place != HOME / OWN:
        raise ValueError(
            f"package {OWN} is taken from {place}, not from {HOME / OWN}; rename that folder, or work in another one"
        )


def _remedy(module: str) -> str:
    top = module.split(".")[0]
    if top == OWN:
        return "install the mlff that wrote the file"
    return f"put {top}.py where Python finds it (the folder you call from, or PYTHONPATH)"
