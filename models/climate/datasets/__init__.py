"""Six datasets of WxC-Bench, prepared in parts that are made once."""
