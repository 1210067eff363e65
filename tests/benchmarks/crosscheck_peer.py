"""Descriptors by other packages: reads requests, writes values and derivatives. Runs under the peers' Python.

    python crosscheck_peer.py requests.json answers.npz

A request is {"peer": a name below, "settings": {…}, "positions": n × 3, "numbers": n, "cell": 3 × 3, zeros for none}.
Answer i is the arrays `values_i`, of any shape s; `derivatives_i`, of shape s + (n, 3), or empty where the peer gives
none; `version_i`.
"""

import importlib.metadata
import json
import sys

import numpy as np

NONE = np.zeros(0)


def qmllib_fchl19(positions, numbers, cell, elements, **settings):
    from qmllib.representations import generate_fchl19

    return generate_fchl19(numbers, positions, elements=list(elements), gradients=True, **settings)


def dscribe_soap(positions, numbers, cell, elements, **settings):
    """The derivatives, which DScribe has for molecules alone, count the displacement of the centre."""
    import ase
    from dscribe.descriptors import SOAP

    periodic = bool(cell.any())
    soap = SOAP(species=list(elements), periodic=periodic, rbf="gto", **settings)
    atoms = ase.Atoms(numbers, positions, cell=cell, pbc=periodic)
    if periodic:
        return soap.create(atoms), NONE
    derivatives, values = soap.derivatives(atoms, attach=True, method="analytical")
    return values, np.moveaxis(derivatives, -1, 1)


def featomic_soap(positions, numbers, cell, elements, cutoff, n_max, l_max, sigma):
    """DScribe's radial functions, splined, and a cosine that falls over the whole cutoff; order and factors of DScribe."""
    import ase
    import featomic
    from scipy.linalg import inv, sqrtm
    from scipy.special import gamma

    class Functions(featomic.basis.RadialBasis):
        def __init__(self, degree):
            super().__init__(max_radial=n_max - 1, radius=cutoff)
            reach = np.linspace(1, cutoff, n_max)
            self.degree, self.alpha = degree, -np.log(1e-3 / reach**degree) / reach**2

        @property
        def integration_radius(self):
            return 3 * cutoff

        def compute_primitive(self, positions, n, *, derivative):
            if derivative:
                raise NotImplementedError
            return positions**self.degree * np.exp(-self.alpha[n] * positions**2)

        def _get_orthonormalization_matrix(self):
            sums = self.alpha[:, None] + self.alpha
            return sqrtm(inv(0.5 * gamma(self.degree + 1.5) * sums ** (-self.degree - 1.5)))

    smoothing = featomic.cutoff.ShiftedCosine(width=np.nextafter(cutoff, 0.0))
    basis = featomic.basis.Explicit(by_angular={degree: Functions(degree) for degree in range(l_max + 1)})
    spliner = featomic.splines.SoapSpliner(
        cutoff=featomic.cutoff.Cutoff(radius=cutoff, smoothing=smoothing),
        density=featomic.density.Gaussian(width=sigma),
        basis=basis,
        n_spline_points=3001,
    )
    calculator = featomic.SoapPowerSpectrum(**spliner.get_hypers())
    atoms = ase.Atoms(numbers, positions, cell=cell, pbc=bool(cell.any()))
    spectrum = calculator.compute(atoms, gradients=["positions"])
    count = len(numbers)
    pairs = [(z, other) for z in elements for other in elements if z <= other]
    values = {pair: np.zeros((count, l_max + 1, n_max, n_max)) for pair in pairs}
    derivatives = {pair: np.zeros((count, l_max + 1, n_max, n_max, count, 3)) for pair in pairs}
    for key, block in spectrum.items():
        pair = tuple(sorted((int(key["neighbor_1_type"]), int(key["neighbor_2_type"]))))
        shape = (l_max + 1, n_max, n_max)
        order = np.ravel_multi_index(block.properties.values.T, shape)
        factor = np.pi * np.sqrt(8) * (np.pi * sigma**2) ** 1.5 / (1 if pair[0] == pair[1] else np.sqrt(2))
        factor = factor * (-1.0) ** block.properties["l"]  # featomic's convention
        sorted_values = np.empty_like(block.values)
        sorted_values[:, order] = block.values * factor
        centers = block.samples["atom"]
        values[pair][centers] = sorted_values.reshape(-1, *shape)
        gradient = block.gradient("positions")
        sorted_gradient = np.empty_like(gradient.values)
        sorted_gradient[:, :, order] = gradient.values * factor
        for (sample, _, atom), rows in zip(gradient.samples.values, sorted_gradient, strict=True):
            derivatives[pair][centers[sample], ..., atom, :] += np.moveaxis(rows.reshape(3, *shape), 0, -1)
    upper = np.triu_indices(n_max)

    def flat(arrays):
        parts = []
        for (z, other), array in arrays.items():
            chosen = array[:, :, *upper] if z == other else array.reshape(*array.shape[:2], n_max**2, *array.shape[4:])
            parts.append(chosen.reshape(count, -1, *array.shape[4:]))
        return np.concatenate(parts, axis=1)

    return flat(values), flat(derivatives)


def dscribe_acsf(positions, numbers, cell, elements, **settings):
    """The derivatives are numerical ones."""
    import ase
    from dscribe.descriptors import ACSF

    periodic = bool(cell.any())
    functions = ACSF(species=list(elements), periodic=periodic, **settings)
    atoms = ase.Atoms(numbers, positions, cell=cell, pbc=periodic)
    if periodic:
        return functions.create(atoms), NONE
    derivatives, values = functions.derivatives(atoms, attach=True, method="numerical")
    return values, np.moveaxis(derivatives, -1, 1)


def dscribe_coulomb(positions, numbers, cell, permutation):
    """The upper triangle, row by row, or the eigenvalues; the derivatives are numerical ones."""
    import ase
    from dscribe.descriptors import CoulombMatrix

    count = len(numbers)
    derivatives, values = CoulombMatrix(count, permutation).derivatives(ase.Atoms(numbers, positions))
    if permutation == "eigenspectrum":
        return values, np.moveaxis(derivatives, -1, 0)
    upper = np.flatnonzero(np.triu(np.ones((count, count))))
    return values[upper], np.moveaxis(derivatives, -1, 0)[upper]


def dscribe_coulomb_spectrum(positions, numbers, cell, scale):
    """The Fourier coefficients of its eigenvalues on a circle."""
    eigenvalues, derivatives = dscribe_coulomb(positions, numbers, cell, "eigenspectrum")
    orders = np.arange(1, len(numbers) + 1)
    waves = np.exp(2j * np.outer(orders, np.arctan(eigenvalues / scale)))
    slopes = 1j * waves * 2 * scale / (scale**2 + eigenvalues**2)
    values, moved = waves.sum(axis=1) / orders, np.tensordot(slopes, derivatives, 1)
    return np.concatenate([values.real, values.imag]), np.concatenate([moved.real, moved.imag])


def qmllib_coulomb(positions, numbers, cell):
    """Its triangle is the lower one, row by row."""
    from qmllib.representations import generate_coulomb_matrix

    count = len(numbers)
    values = generate_coulomb_matrix(numbers, positions, size=count, sorting="unsorted")
    matrix = np.zeros((count, count))
    matrix[np.tril_indices(count)] = values
    return matrix.T[np.triu_indices(count)], NONE


PEERS = {
    function.__name__: function
    for function in (
        qmllib_fchl19,
        qmllib_coulomb,
        dscribe_soap,
        dscribe_acsf,
        dscribe_coulomb,
        dscribe_coulomb_spectrum,
        featomic_soap,
    )
}


def main() -> None:
    requests, answers = sys.argv[1:]
    collected = {}
    with open(requests) as file:
        for i, request in enumerate(json.load(file)):
            system = [np.array(request[key]) for key in ("positions", "numbers", "cell")]
            values, derivatives = PEERS[request["peer"]](*system, **request["settings"])
            package = request["peer"].split("_")[0]
            collected |= {f"values_{i}": values, f"derivatives_{i}": derivatives}
            collected[f"version_{i}"] = importlib.metadata.version(package)
    np.savez(answers, **collected)


if __name__ == "__main__":
    main()
