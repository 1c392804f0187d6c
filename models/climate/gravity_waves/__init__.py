"""Gravity-wave momentum fluxes from what a coarse model resolves: single columns, stencils, an Attention U-Net."""
