"""mlff: force fields from reference calculations, whose derivatives follow from algorithmic differentiation.

Names are imported on first use, so that `import mlff` and `mlff --help` cost nothing.
"""

import importlib

_PUBLIC = {
    "Dataset": "dataset",
    "Frame": "frames",
    "System": "system",
    "Permutations": "symmetry",
    "find_permutations": "symmetry",
    "RBF": "radial",
    "Matern32": "radial",
    "Matern52": "radial",
    "Matern72": "radial",
    "RationalQuadratic": "radial",
    "Descriptor": "descriptor",
    "GlobalKernel": "kernels",
    "LocalKernel": "kernels",
    "SumKernel": "kernels",
    "ProductKernel": "kernels",
    "Operator": "operators",
    "projected_hessian": "operators",
    "Condition": "functions",
    "fit_function": "functions",
    "ForceField": "force_field",
    "fit": "fitting",
    "load": "archive",
    "load_sgdml": "sgdml",
    "load_export": "export",
    "audit": "auditing.audit",
    "evaluate": "metrics",
    "Evaluation": "metrics",
    "Calculator": "calculator",
    "normal_modes": "vibrations",
    "frequencies": "vibrations",
    "lowest_modes": "modes",
    "anharmonic_frequencies": "anharmonic",
    "elastic_constants": "elasticity",
    "phonon_force_constants": "phonons",
    "phonopy_of": "phonons",
    "ideal_gas": "thermochemistry",
    "harmonic": "thermochemistry",
    "relax": "relaxation",
    "response": "responses",
    "transition_state": "reactions",
    "reaction_path": "reactions",
    "band": "bands",
    "self_check": "selfcheck",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name == "__version__":
        from importlib.metadata import version

        return version("mlff")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mlff' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"mlff.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
