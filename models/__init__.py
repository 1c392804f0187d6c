"""Plain science: arrays and tables in, arrays and tables out."""
