"""Non-local gravity-wave fluxes (WINDSET): Helmholtz decomposition, momentum flux, and training fields on T42."""
