"""One verb per file, for all systems; they know Prefect and infra and name no system."""
