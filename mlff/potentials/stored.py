"""What a file may hold of potentials: their classes, under the names that files have for them, and what their fields may be."""

from __future__ import annotations

import math

import numpy as np

from mlff.archive import Registry, Stored
from mlff.expected import (
    COUNT,
    FLAG,
    LEVEL,
    POSITIVE,
    TEXT,
    Expected,
    instance,
    named,
    one_of,
    optional,
    reals,
    several,
    wholes,
)
from mlff.kernels.composed import ProductKernel
from mlff.kernels.descriptor import Descriptor
from mlff.kernels.kernels import GlobalKernel, LocalKernel
from mlff.kernels.stored import ELEMENTS, KERNELS
from mlff.potentials.calibration import Calibration
from mlff.potentials.committee import Committee
from mlff.potentials.energy_function import EnergyFunction
from mlff.potentials.expansion import Channel, Curvature, Expansion, Part
from mlff.potentials.pair_repulsion import PairRepulsion
from mlff.potentials.potential import Potential
from mlff.potentials.reference import Reference
from mlff.potentials.sums import PotentialSum
from mlff.potentials.waves import Products, RandomFunction, Waves

NOTHING = Expected("nothing", lambda value: value is None)
INTEGER = Expected("a whole number", lambda value: type(value) is int)
LABEL_ORDER = Expected("0, 1 or 2", lambda value: type(value) is int and 0 <= value <= 2)
MEMBERS = Expected(
    "a finite float64 array with an axis of members",
    lambda value: (
        isinstance(value, np.ndarray) and value.dtype == np.float64 and value.ndim and bool(np.isfinite(value).all())
    ),
)
INFINITE = Expected("infinity", lambda value: isinstance(value, float) and value == math.inf)
POTENTIALS = Registry(
    {
        "Expansion": Stored(
            Expansion,
            {
                "parts": several(instance(Part), least=1), "constants": reals("z"), "elements": optional(ELEMENTS),
                "members": NOTHING, "label_order": LABEL_ORDER,
            },
            no_longer=("counts",),
        ),
        "Part": Stored(
            Part,
            {
                "kernel": instance(GlobalKernel, LocalKernel, ProductKernel),
                "channels": several(instance(Channel, Waves, Products), least=1), "images": optional(wholes("P D")),
                "sizes": several(COUNT, least=1), "alone": FLAG,
            },
            may_lack=("alone",),  # in files that were written before there was such a thing
            no_longer=("counts",),
        ),
        "Channel": Stored(
            Channel,
            {
                "origin": reals("D"), "points": reals("K D"), "tangents": optional(reals("K D")), "values": optional(reals("K")),
                "offsets": reals("b 2 K"), "curvature": optional(instance(Curvature)),
            },
            may_lack=("curvature",),  # in files of version 2
        ),
        "Curvature": Stored(
            Curvature,
            {
                "vectors": reals("K R D"), "weights": reals("K R"), "offsets": reals("b K R"), "traces": reals("b K"),
            },
        ),
        "RandomFunction": Stored(
            RandomFunction,
            {
                "parts": several(instance(Part), least=1), "constants": reals("z"), "elements": optional(ELEMENTS),
                "members": NOTHING, "label_order": LABEL_ORDER,
            },
        ),
        "Waves": Stored(Waves, {"points": reals("R D"), "phases": reals("R"), "strengths": reals("R")}),
        "Products": Stored(Products, {"points": reals("R f D"), "phases": reals("R f"), "strengths": reals("R")}),
        "Committee": Stored(Committee, {"shared": instance(Potential), "varying": named(MEMBERS)}),
        "Calibration": Stored(
            Calibration,
            {"factor": POSITIVE, "tables": named(reals("2 k")), "of_committee": optional(named(reals("2 k")))},
            may_lack=("of_committee",),  # in files of version 5
        ),
        "EnergyFunction": Stored(
            EnergyFunction,
            {"function": instance(Descriptor), "elements": optional(ELEMENTS), "order": one_of(LEVEL, INFINITE)},
        ),
        "PairRepulsion": Stored(PairRepulsion, {"cutoff": POSITIVE}),
        "Reference": Stored(Reference, {"method": TEXT, "charge": INTEGER, "multiplicity": COUNT}),
        "PotentialSum": Stored(PotentialSum, {"terms": several(instance(Potential), least=1)}),
    },
    bases=(Stored(Potential, {}),),
)  # fmt: skip
REGISTRY = KERNELS.joined(POTENTIALS)
