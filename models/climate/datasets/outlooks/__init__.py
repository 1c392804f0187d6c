"""Forecasters' convective outlooks, paired with the model runs of the day."""
