"""Weather whose truth is known: fields, reports, storms and rain, any moment of which can be made alone."""
