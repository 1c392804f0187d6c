"""One system per file; a flow reads like a paragraph."""
