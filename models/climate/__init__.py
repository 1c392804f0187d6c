"""Weather and climate: analysis-ready datasets, and networks that emulate gravity-wave fluxes."""
