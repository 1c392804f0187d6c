"""Packets of gravity waves on their way up: refraction, saturation, critical levels, and where they come down.

A packet has a horizontal wavenumber K along a fixed direction, a phase speed c along it and carries the momentum flux
F = rho u' w' (Pa, along its direction). In a wind U along the direction its intrinsic speed is c^ = c - U, its
intrinsic frequency w^ = K c^, and with the Coriolis parameter f and the buoyancy frequency N

    m^2 = N^2 K^2 / (w^2 - f^2),    cgz = (w^2 - f^2)^(3/2) / (w N K),    cgh = (w^2 - f^2) / (w K),

so that while it climbs by dz it moves by dz (cgh + wind) / cgz: hundreds of kilometres from source to stratosphere.
F stays as it is until the amplitude sqrt(2 F |m| / (rho K)) reaches c^, where the wave breaks and keeps the flux of
that amplitude; where w^ falls to |f| all of it is left behind.

Shapes: L levels, top first, I latitudes, south first, J longitudes, P packets of a source, R rays (source by source).

Source: the dispersion relation and ray equations of hydrostatic inertia-gravity waves, Fritts and Alexander 2003,
"Gravity wave dynamics and effects in the middle atmosphere", section 2; saturation of Lindzen 1981; columns as sources
of fixed spectra as in Warner and McIntyre 1996. Rays in the wind of one moment, spread over the cells that they meet,
are ours.
"""

from collections.abc import Callable
from math import cos, pi, sqrt
from typing import Any

import numba
import numpy as np

compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")

RADIUS = 6.37122e6
NEAR_INERTIAL = 1.1
"""Intrinsic frequency over |f| at which a packet is left behind: beneath, it would climb for weeks."""

SLOWEST = 0.07
"""Vertical group velocity in m/s below which a packet is left behind: it would need days for 10 km."""

EDGE = 85.0
"""Degrees of latitude beyond which no ray is followed: its direction, fixed to the meridian, loses its meaning."""


@compiled
def _between(field_IJ: Any, row: float, column: float) -> Any:
    """Bilinear value at a fractional row and column; columns wrap around."""
    rows, columns = field_IJ.shape
    i = min(int(row), rows - 2)
    a = row - i
    j = int(np.floor(column))
    b = column - j
    j0, j1 = j % columns, (j + 1) % columns
    if a == 0.0 and b == 0.0:  # the source's own column, to the bit
        return field_IJ[i, j0]
    low = field_IJ[i, j0] * (1 - b) + field_IJ[i, j1] * b
    high = field_IJ[i + 1, j0] * (1 - b) + field_IJ[i + 1, j1] * b
    return low * (1 - a) + high * a


@compiled
def _row_of(latitude: float, latitude_I: Any, start: int) -> Any:
    """Fractional row of a latitude, sought from a row nearby."""
    i = min(max(start, 0), len(latitude_I) - 2)
    while i < len(latitude_I) - 2 and latitude >= latitude_I[i + 1]:
        i += 1
    while i > 0 and latitude < latitude_I[i]:
        i -= 1
    if latitude == latitude_I[i]:
        return float(i)
    return min(max(i + (latitude - latitude_I[i]) / (latitude_I[i + 1] - latitude_I[i]), 0.0), len(latitude_I) - 1.0)


@compiled
def saturated(flux: float, speed: float, buoyancy: float, coriolis: float, wavenumber: float, density: float) -> float:
    """What is left of a flux where the intrinsic phase speed is `speed`; zero at and beyond a critical level."""
    frequency = wavenumber * speed
    if speed <= 0 or frequency <= NEAR_INERTIAL * coriolis:
        return 0.0
    vertical = buoyancy * wavenumber / sqrt(frequency * frequency - coriolis * coriolis)
    return min(flux, 0.5 * density * wavenumber * speed * speed / vertical)


@compiled
def trace(
    latitude_I: Any, area_I: Any, height_L: Any, density_L: Any, u_LIJ: Any, v_LIJ: Any, buoyancy_LIJ: Any,
    flux_IJP: Any, level_P: Any, east_IJP: Any, speed_IJP: Any, north_IJP: Any, wavenumber_P: Any, reach: float,
    uw_LIJ: Any, vw_LIJ: Any, path_RL: Any,
) -> None:  # fmt: skip
    """Follow all packets up and add their flux to the cells that they meet.

    At reach 0 a packet stays in its column, and the fluxes of a column depend on nothing else, to the bit.

    Args:
        latitude_I, area_I: degrees; share of a row's cells, any unit.
        height_L, density_L: m, kg/m3; levels from the top.
        u_LIJ, v_LIJ, buoyancy_LIJ: wind in m/s, N in 1/s.
        flux_IJP: at the source, Pa, of either sign never; zero: no packet.
        level_P: where packets start.
        east_IJP, north_IJP: unit vector of the direction.
        speed_IJP: c in m/s along it.
        wavenumber_P: K, 1/m.
        reach: factor of the sideways way, 0 to 1.
        uw_LIJ, vw_LIJ: fluxes in Pa, added to.
        path_RL: (R, L, 5) or empty: latitude, longitude in columns, F, |m| and the phase that m has turned, by ray.
    """
    rows, columns, packets = flux_IJP.shape
    step = 2 * pi * RADIUS / columns
    recording = len(path_RL) > 0
    ray = -1
    for i in range(rows):
        for j in range(columns):
            for p in range(packets):
                flux = flux_IJP[i, j, p]
                if flux <= 0.0:
                    continue
                ray += 1
                kx, ky, c, k = east_IJP[i, j, p], north_IJP[i, j, p], speed_IJP[i, j, p], wavenumber_P[p]
                latitude, row, column, phase = latitude_I[i], float(i), float(j), 0.0
                level = level_P[p]
                u, v, n = u_LIJ[level, i, j], v_LIJ[level, i, j], buoyancy_LIJ[level, i, j]
                while True:
                    coriolis = abs(1.4584e-4 * np.sin(latitude * pi / 180))
                    speed = c - (u * kx + v * ky)
                    flux = saturated(flux, speed, n, coriolis, k, density_L[level])
                    if flux <= 0.0:
                        break
                    i0 = min(int(row), rows - 2)
                    a = row - i0
                    j0 = int(np.floor(column))
                    b = column - j0
                    for di in range(2):
                        across = a if di else 1 - a
                        for dj in range(2):
                            weight = across * (b if dj else 1 - b)
                            if weight > 0.0:
                                share = flux * weight * (area_I[i] / area_I[i0 + di])
                                uw_LIJ[level, i0 + di, (j0 + dj) % columns] += share * kx
                                vw_LIJ[level, i0 + di, (j0 + dj) % columns] += share * ky
                    square = (k * speed) ** 2 - coriolis**2
                    vertical = n * k / sqrt(square)
                    if recording:
                        path_RL[ray, level, 0] = latitude
                        path_RL[ray, level, 1] = column
                        path_RL[ray, level, 2] = flux
                        path_RL[ray, level, 3] = vertical
                        path_RL[ray, level, 4] = phase
                    if level == 0:
                        break
                    climb = height_L[level - 1] - height_L[level]
                    seconds = climb * (k * speed) * n * k / (square * sqrt(square))
                    if climb < SLOWEST * seconds:
                        break
                    phase -= vertical * climb
                    level -= 1
                    if reach > 0.0:
                        along = square / (k * speed * k)
                        latitude += reach * seconds * (along * ky + v) / RADIUS * 180 / pi
                        if abs(latitude) > EDGE:
                            break
                        column += reach * seconds * (along * kx + u) / (step * cos(latitude * pi / 180))
                        row = _row_of(latitude, latitude_I, int(row))
                    u = _between(u_LIJ[level], row, column)
                    v = _between(v_LIJ[level], row, column)
                    n = _between(buoyancy_LIJ[level], row, column)


@compiled
def draw(
    latitude_I: Any, longitude_J: Any, spacing_R: Any, path_R: Any, east_R: Any, north_R: Any, wavenumber_R: Any,
    start_R: Any, density: float, buoyancy: float, cell: float, first: float,
    u_IJ: Any, v_IJ: Any, omega_IJ: Any, t_IJ: Any,
) -> None:  # fmt: skip
    """Add the waves of one level to fields on a fine grid.

    A packet is chi' = (A / K) w sin(phase), w a cosine window two cells of the lattice wide: squares of neighbouring
    windows sum to one, so the mean of rho u' w' over a cell is the flux spread over it. Winds are its exact gradient.

    Args:
        latitude_I: degrees, any order, poles allowed.
        longitude_J: degrees, rising, in equal steps.
        spacing_R: height of a lattice cell where the packet is, degrees.
        path_R: (R, 5) of `trace` at this level; flux 0: nothing to draw.
        east_R, north_R, wavenumber_R: direction and K.
        start_R: phase at the source, radians.
        density, buoyancy: of the level.
        cell, first: width of a lattice cell and longitude of its first column, degrees.
        u_IJ, v_IJ, omega_IJ, t_IJ: added to: m/s, m/s, Pa/s, and relative temperature (T' / T).
    """
    columns = len(longitude_J)
    step = longitude_J[1] - longitude_J[0]
    whole = abs(step * columns - 360.0) < 1e-3
    radian = pi / 180
    for r in range(len(path_R)):
        flux = path_R[r, 2]
        if flux <= 0.0:
            continue
        latitude, longitude, vertical = path_R[r, 0], first + path_R[r, 1] * cell, path_R[r, 3]
        k, kx, ky = wavenumber_R[r], east_R[r], north_R[r]
        amplitude = sqrt(2 * flux * vertical / (density * k))
        phase_0 = start_R[r] + path_R[r, 4]
        shrink = cos(latitude * radian)
        ax, ay = pi / (2 * cell), pi / (2 * spacing_R[r])
        for i in range(len(latitude_I)):
            y = latitude_I[i] - latitude
            if abs(y) >= spacing_R[r] or abs(latitude_I[i]) > 89.0:
                continue
            wy, dy = cos(ay * y), -np.sin(ay * y) * ay / (RADIUS * radian)
            metre = RADIUS * radian * cos(latitude_I[i] * radian)
            start = int(np.ceil((longitude - cell - longitude_J[0]) / step))
            stop = int(np.floor((longitude + cell - longitude_J[0]) / step))
            for index in range(start, stop + 1):
                x = longitude_J[0] + index * step - longitude
                j = index
                if whole:
                    j = index % columns
                elif j < 0 or j >= columns:
                    continue
                wx = cos(ax * x)
                phase = k * RADIUS * radian * (kx * shrink * x + ky * y) + phase_0
                sine, cosine = np.sin(phase), np.cos(phase)
                window = wx * wy
                dx = -np.sin(ax * x) * ax / metre
                along = k * kx * shrink * RADIUS * radian / metre
                u_IJ[i, j] += amplitude / k * (dx * wy * sine + window * along * cosine)
                v_IJ[i, j] += amplitude / k * (wx * dy * sine + window * k * ky * cosine)
                omega_IJ[i, j] -= density * 9.81 * k / vertical * amplitude * window * cosine
                t_IJ[i, j] += buoyancy / 9.81 * amplitude * window * sine
