"""mlff: force fields from reference calculations, whose derivatives follow from algorithmic differentiation.

Names are imported on first use, so that `import mlff` and `mlff --help` cost nothing.
"""

import importlib

_PUBLIC = {
    "Dataset": "data.dataset",
    "Frame": "data.frames",
    "System": "data.system",
    "Permutations": "data.permutations",
    "find_permutations": "data.permutations",
    "RBF": "kernels.radial",
    "Matern32": "kernels.radial",
    "Matern52": "kernels.radial",
    "Matern72": "kernels.radial",
    "RationalQuadratic": "kernels.radial",
    "Polynomial": "kernels.radial",
    "Descriptor": "kernels.descriptor",
    "GlobalKernel": "kernels.kernels",
    "LocalKernel": "kernels.kernels",
    "SumKernel": "kernels.composed",
    "ProductKernel": "kernels.composed",
    "reduced": "kernels.reduction",
    "Operator": "operators",
    "projected_hessian": "operators",
    "Condition": "regression.differential_equations",
    "fit_function": "regression.differential_equations",
    "ForceField": "potentials.force_field",
    "Potential": "potentials.potential",
    "fit": "regression.fitting",
    "plan": "regression.fitting",
    "Plan": "regression.planning.plans",
    "plan_tuning": "regression.tuning.tune",
    "extended": "regression.updates",
    "sampled": "dynamics.sampling",
    "distilled": "workflows.distillation",
    "select": "workflows.selection",
    "predict": "workflows.prediction",
    "learn": "workflows.learning",
    "Learned": "workflows.learning",
    "find_saddle": "properties.stationary",
    "find_minimum": "properties.stationary",
    "Stationary": "properties.stationary",
    "tune": "regression.tuning.tune",
    "Tuned": "regression.tuning.tune",
    "compressed": "regression.sparse.compression",
    "PairRepulsion": "potentials.pair_repulsion",
    "Reference": "potentials.reference",
    "recipe": "regression.recipes",
    "train_schnet": "potentials.training",
    "schnet_force_field": "potentials.training",
    "load": "potentials.model_files",
    "load_sgdml": "potentials.sgdml",
    "load_export": "potentials.exported",
    "audit": "quality.audit.audit",
    "evaluate": "potentials.errors",
    "compare": "quality.trials",
    "Comparison": "quality.comparison",
    "Evaluation": "potentials.errors",
    "reliability": "quality.reliability",
    "calibrated": "quality.reliability",
    "inspect": "quality.inspection",
    "influence": "quality.influence",
    "Calculator": "dynamics.calculator",
    "normal_modes": "properties.vibrations",
    "frequencies": "properties.vibrations",
    "lowest_modes": "properties.lowest_modes",
    "anharmonic_frequencies": "properties.anharmonic",
    "frequency_error_bars": "properties.error_bars",
    "zero_point_energy": "properties.error_bars",
    "geometry_error_bars": "properties.error_bars",
    "energy_differences": "properties.error_bars",
    "elastic_constants_error_bars": "properties.error_bars",
    "phonon_error_bars": "properties.phonon_error_bars",
    "elastic_constants": "properties.elasticity",
    "phonon_force_constants": "properties.phonons",
    "phonopy_of": "properties.phonons",
    "ideal_gas": "properties.thermochemistry",
    "harmonic": "properties.thermochemistry",
    "relax": "properties.relaxation",
    "response": "properties.responses",
    "transition_state": "properties.saddles",
    "reaction_path": "properties.saddles",
    "band": "properties.elastic_bands",
    "self_check": "quality.self_check",
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
