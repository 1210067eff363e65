"""A plan before the work: how a fit will be solved, in what memory and time, from a pilot on a few of its frames.

Of n rows the exact solver takes 4n² bytes and n³/3 operations; conjugate gradients with a preconditioner of rank m take 8nm bytes
and 2nm² operations, and as many products as what the preconditioner leaves asks for; a sparse model of m functionals takes
8m² bytes a few times over. Large systems are solved by conjugate gradients where these come to an end soon; else by their factor
where there is room for it; where there is room for neither, the sparse model of as many functionals as there is room for is
taken. The choice depends on sizes, on operations that are counted and on what a pilot sees of the kernel, not on times, which differ
from run to run: the same call gives the same model.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import psutil

from mlff.arguments import bytes_of
from mlff.batching import free_memory
from mlff.potentials.record import ORDERS
from mlff.regression.checkpoint import NOWHERE, Checkpoint
from mlff.regression.devices.mesh import Devices
from mlff.regression.iterative import MOST
from mlff.regression.planning.pilot import Pilot, Work, images_of
from mlff.regression.planning.plans import Plan, Stage, text_of
from mlff.regression.planning.sizes import LEAST_RANK, Sizes, exact_bytes, sparse_bytes, tiles_bytes
from mlff.regression.requests import Request
from mlff.regression.sparse.inducing import CHUNK
from mlff.regression.sparse.pilot import SparsePilot
from mlff.regression.sparse.weights import groups_apart

METHODS = ("exact", "iterative", "sparse")
SHARE = 0.8  # of the memory that is free, which a fit takes where nothing is said
OVERHEAD = 32 * 2**20  # bytes that compiled programs and threads take, beside what a pilot has and what is counted
UNCOMPILED = 200 * 2**20  # where no pilot has compiled them
CERTAIN = 16_000  # labels, up to which the exact solver takes seconds and no pilot is worth it
PILOT = 0.3  # of the room that there is, which a pilot may take
WORTH = 4000  # labels, from which a factorisation is worth its compilation for a GPU


def budget_of(memory) -> int:
    """Bytes that this process may take: what was said, or a share of what is free beside what it has."""
    return _resident() + int(SHARE * free_memory()) if memory is None else bytes_of(memory)


def room_of(memory) -> int:
    """Bytes that are left of a budget for numbers, beside what the process has and what compiled programs take."""
    return budget_of(memory) - _resident() - UNCOMPILED


def plan_fit(
    request: Request,
    inducing=None,
    method: str | None = None,
    memory=None,
    posterior: bool = False,
    seed: int = 0,
    measured: bool = True,
    checkpoint: Checkpoint = NOWHERE,
    devices: Devices | None = None,
) -> Plan:
    """The plan of a fit, and of one that goes on the one that it began with.

    Arguments:
        inducing: of a sparse model what was asked for.
        method: that was asked for; None for any.
        memory: the budget, bytes or a text such as "8GB"; without it 80 % of what is free.
        posterior: whether error bars are asked for, which an iterative fit has none of.
        checkpoint: keeps the plan.
        measured: whether to run a pilot where the method is clear without.
        devices: that share the fit; of several processes all take the plan of the first.
    Raises:
        ValueError: nothing fits the budget, or what was asked for does not; the message says what it takes.
    """
    asked = (request, inducing, method, memory, posterior, seed, measured, devices)
    planned = checkpoint.plain("plan", lambda: _planned(*asked).summary())
    return Plan.of(planned if devices is None else devices.agreed(planned))


def accelerators(request: Request, inducing, method: str | None, posterior: bool) -> Devices | None:
    """The GPUs that JAX sees, where the fit is one that they share well: exact, large, of labels of first order, and within
    their memory."""
    if jax.default_backend() == "cpu" or jax.process_count() > 1:
        return None
    if posterior or inducing is not None or method not in (None, "exact") or not set(request.labels) <= set(ORDERS):
        return None
    devices, labels = Devices.of("all"), Work.of(request.kernel, request.frames, request.labels).labels
    fits = devices.memory is None or tiles_bytes(labels, devices) <= SHARE * devices.memory
    return devices if labels >= WORTH and fits else None


def _planned(
    request: Request,
    inducing,
    method: str | None,
    memory,
    posterior: bool,
    seed: int,
    measured: bool,
    devices: Devices | None,
) -> Plan:
    if method not in (None, *METHODS):
        raise ValueError(f"method={method!r:.40} is none of {', '.join(METHODS)}; leave it out to have one chosen")
    if method == "sparse" and inducing is None:
        raise ValueError("method='sparse': say with inducing how many functionals span the model")
    if method in ("exact", "iterative") and inducing is not None:
        raise ValueError(f"method='{method}' takes no inducing points; leave one of them out")
    if method == "iterative" and posterior:
        raise ValueError(
            "method='iterative' keeps no factor, and error bars need one; fit exact or sparse for posterior=True"
        )
    budget, work = budget_of(memory), Work.of(request.kernel, request.frames, request.labels)
    base = _resident() + UNCOMPILED
    if devices is not None and (posterior or inducing is not None):
        what = "error bars need the factor" if posterior else "sparse models are fitted"
        raise ValueError(
            f"devices: {what} on one host; leave devices out, or {'error bars' if posterior else 'inducing'}"
        )
    if devices is not None and method in (None, "exact"):
        return _require_room(_shared(request, work, base, budget, devices))
    if inducing is not None:
        plan = _require_room(_sparse(request, work, base, budget, inducing, "asked for"))
        # of environments, of which recipes for crystals are made; those of labels are computed as for an exact fit
        by_values = request.kernel.transferable and not np.iterable(inducing)
        return _timed(plan, request, seed) if measured and by_values else plan
    needed = 8 * work.tangents + exact_bytes(work.labels)
    if not measured and method in (None, "exact") and work.labels <= CERTAIN and needed < SHARE * (budget - base):
        return Plan("exact", work.frames, work.labels, None, budget, (Stage("solve", base + needed, None),), "small")
    pilot = Pilot.of(request, seed, PILOT * max(0, budget - _resident()))
    base = _resident() + OVERHEAD
    sizes = Sizes.of(request, work, pilot, base, budget)
    exact = sizes.exact("error bars" if posterior else "fits", posterior)
    if posterior or method == "exact":
        return _require_room(dataclasses.replace(exact, reason="error bars" if posterior else "asked for"))
    iterative = sizes.iterative()
    if method == "iterative":
        return _require_room(dataclasses.replace(iterative, reason="asked for"))
    # by what does not change from run to run, as times do: the same call should give the same model
    fits = exact.memory <= budget
    quick = work.labels > CERTAIN and iterative.memory <= budget and sizes.sooner(iterative.rank)
    if quick or (not fits and iterative.memory <= budget and iterative.seconds < np.inf):
        return iterative
    if fits:
        return exact
    reason = f"no room for the factor, which takes {text_of(exact.memory)}, nor for a preconditioner that converges"
    return _largest_sparse(request, work, base, budget, exact, reason)


def _sparse(request: Request, work: Work, base: int, budget: int, inducing, reason: str) -> Plan:
    if np.iterable(inducing):
        each = Work.of(request.kernel, request.frames.take(np.asarray(sorted(inducing), dtype=int)), request.labels)
        inducing = each.labels
    else:  # there are no more environments, or labels, than there are
        environments = sum(len(batch) * len(batch.numbers) for batch in request.frames.batches)
        parts = len(request.kernel.parts)
        inducing = min(inducing, environments * parts if request.kernel.transferable else work.labels)
    labels = len(request.labels)
    groups = len(set(groups_apart(request.group_of, int(inducing), labels).values()))
    memory = base + sparse_bytes(int(inducing), labels, groups)
    if memory > budget:  # their noise can be that of all
        groups, memory = 0, base + sparse_bytes(int(inducing), labels)
    stage = Stage("sparse", memory, None)
    return Plan("sparse", work.frames, int(inducing), None, budget, (stage,), reason, groups=groups)


def _timed(plan: Plan, request: Request, seed: int) -> Plan:
    """A sparse plan with its time, from a pilot."""
    seconds = SparsePilot.of(request, plan.unknowns, seed).seconds(plan.frames, plan.unknowns)
    return dataclasses.replace(plan, stages=(dataclasses.replace(plan.stages[0], seconds=seconds),))


def _largest_sparse(request: Request, work: Work, base: int, budget: int, exact: Plan, reason: str) -> Plan:
    """The sparse model with as many functionals as fit, where nothing else does."""
    room = budget - base
    functionals = int(np.sqrt(max(0, room - CHUNK) / (sparse_bytes(1, len(request.labels)) - CHUNK)))
    if functionals < LEAST_RANK:
        raise ValueError(
            f"memory: {text_of(budget)} are too few: this fit takes {text_of(exact.memory)}, and a sparse one more than is left beside "
            f"the {text_of(base)} that the program takes; give more, or train on fewer frames"
        )
    return _sparse(request, work, base, budget, min(functionals, work.labels), reason)


def _shared(request: Request, work: Work, base: int, budget: int, devices: Devices) -> Plan:
    """The exact fit, shared among devices."""
    tiles, own = tiles_bytes(work.labels, devices), devices.memory
    if own is not None and tiles > own:
        raise ValueError(
            f"devices: {work.labels} unknowns take {text_of(tiles)} of each of {devices}, which has {text_of(own)}; take more devices, "
            "method='iterative', or train on fewer frames"
        )
    images = max(images_of(request.kernel))
    sides = 8 * work.tangents * (1 + (images if images > 1 else 0)) * devices.here // devices.count
    memory = base + 8 * work.tangents + (sides + tiles * devices.here if own is None else sides)
    stage = Stage("factorise", memory, None)
    return Plan("exact", work.frames, work.labels, None, budget, (stage,), f"on {devices}")


def _require_room(plan: Plan) -> Plan:
    if plan.memory > plan.budget:
        raise ValueError(
            f"memory: the {plan.method} fit of {plan.unknowns} unknowns takes {text_of(plan.memory)}, {text_of(plan.budget)} may be "
            "taken; give more memory, another method (inducing for a sparse model), or train on fewer frames"
        )
    if plan.seconds == np.inf:
        raise ValueError(
            f"method: with a preconditioner of rank {plan.rank}, which is what fits {text_of(plan.budget)}, conjugate gradients would not "
            f"converge in {MOST} iterations; give more memory, raise noise, or take a smoother kernel (RBF) or another method"
        )
    return plan


def _resident() -> int:
    return psutil.Process().memory_info().rss
